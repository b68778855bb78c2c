/* What a process has allocated, where its allocator tells: for tests that do a thing many times to find leaks. */
#ifndef HEAP_H
#define HEAP_H

#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* which keep freed memory, and look for leaks themselves */
#elif defined(__GLIBC__)
#if __GLIBC_PREREQ(2, 33)
#include <malloc.h>
#define HEAP_TELLS 1
#endif
#endif

/* What the process takes of the memory, once the allocator has given back what it can. */
struct memory {
  long resident_kib;
  size_t in_use; /* bytes that were allocated and not freed, where the allocator tells */
};

static inline struct memory memory(void) {
  struct memory memory = {0, 0};
  long total;
  FILE *file;
#ifdef HEAP_TELLS
  malloc_trim(0);
  memory.in_use = mallinfo2().uordblks;
#endif
  file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &memory.resident_kib) == 2);
  fclose(file);
  memory.resident_kib *= sysconf(_SC_PAGESIZE) / 1024;
  return memory;
}

/* Begins again without glibc's caches of freed memory, which count as in use. */
static inline void without_caches(char **argv) {
#ifdef HEAP_TELLS
  if (getenv("GLIBC_TUNABLES") != NULL) return;
  CHECK_EQ(setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1", 1), 0);
  execv("/proc/self/exe", argv);
  CHECK(!"execv");
#else
  (void)argv;
#endif
}

/* Whether more is in use than before, beyond what one cycle may leave to the next. */
static inline int is_lost(struct memory before, struct memory after) {
#ifdef HEAP_TELLS
  /* Another allocator in glibc's place, as valgrind's, tells nothing. */
  if (before.in_use == 0) return 0;
  if (after.in_use > before.in_use + 512 || after.resident_kib > before.resident_kib + 256) {
    fprintf(stderr, "memory was lost: %zu bytes in use after %zu, %ld KiB resident after %ld\n", after.in_use,
            before.in_use, after.resident_kib, before.resident_kib);
    return 1;
  }
#else
  (void)before, (void)after;
#endif
  return 0;
}

#endif
