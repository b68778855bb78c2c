/* A lack of memory fails the call and changes nothing: the process goes on, and so does the tunnel. The address space
   is limited (RLIMIT_AS) to a little more than is used, in a child for each limit. Not with sanitizers: they use
   address space of their own, and end the process when there is no more. */
#include "check.h"

#include <sys/resource.h>
#include <sys/wait.h>

enum { PEERS = 3000, PREFIXES = 12000 };

static char *many_peers, *other_peers, *many_prefixes;

static void append(char **end, const char *format, unsigned a, unsigned b, unsigned c, unsigned d) {
  *end += sprintf(*end, format, a, b, c, d);
}

static void make_texts(void) {
  char *end = many_peers = malloc(PEERS * 160);
  unsigned i;
  CHECK(end != NULL);
  for (i = 0; i < PEERS; i++)
    append(&end, "public_key=%064x\nallowed_ip=10.%u.%u.%u/32\n", i + 9, 100 + (i >> 16), i >> 8 & 255, i & 255);
  end = other_peers = malloc(PEERS * 160 + 32);
  CHECK(end != NULL);
  end += sprintf(end, "replace_peers=true\n");
  for (i = 0; i < PEERS; i++) append(&end, "public_key=%064x\nallowed_ip=fd00:%x::%x:%x/128\n", i + 100000, i & 7, i, i);
  end = many_prefixes = malloc(PREFIXES * 40 + 100);
  CHECK(end != NULL);
  end += sprintf(end, "public_key=" PUBLIC_B "\n");
  for (i = 0; i < PREFIXES; i++) append(&end, "allowed_ip=10.%u.%u.%u/%u\n", 50 + (i >> 16), i >> 8 & 255, i & 255, 32);
}

/* Bytes of address space that are taken. */
static size_t taken(void) {
  size_t pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%zu", &pages) == 1);
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Only the soft limit, so that it can be lifted. */
static void limit(size_t kib) {
  struct rlimit as;
  CHECK_EQ(getrlimit(RLIMIT_AS, &as), 0);
  as.rlim_cur = kib == RLIM_INFINITY ? as.rlim_max : taken() + (kib << 10);
  CHECK_EQ(setrlimit(RLIMIT_AS, &as), 0);
}

static void lift(void) { limit(RLIM_INFINITY); }

/* The configuration, without what changes by itself. */
static char *settled(int32_t handle) {
  char *text = get(handle), *from = text, *to = text;
  while (*from) {
    size_t len = strcspn(from, "\n") + 1;
    if (strncmp(from, "tx_", 3) && strncmp(from, "rx_", 3) && strncmp(from, "last_", 5)) {
      memmove(to, from, len);
      to += len;
    }
    from += len;
  }
  *to = 0;
  return text;
}

/* `text` is refused whole, or applied; the tunnel carries packets before, under the limit and afterwards. */
static void check_set(size_t kib, const char *text) {
  struct end a, b;
  char *before, *after;
  int32_t code;
  turn_on_both(SOCK_SEQPACKET, &a, &b);
  check_exchange(a, b);
  before = settled(a.handle);
  limit(kib);
  code = wg_set_config(a.handle, text);
  CHECK(code == WG_OK || code == WG_ERR_RESOURCES);
  CHECK(code == WG_OK || strlen(wg_last_error()) > 0);
  if (code != WG_OK) check_exchange(a, b);
  lift();
  if (code != WG_OK) {
    after = settled(a.handle);
    CHECK_TEXT(after, before);
    wg_free(after);
    CHECK_EQ(wg_set_config(a.handle, text), WG_OK);
  }
  after = settled(a.handle);
  CHECK(strlen(after) > strlen(before));
  wg_free(after);
  wg_free(before);
  turn_off(a);
  turn_off(b);
}

static void many_peers_come(size_t kib) { check_set(kib, many_peers); }
static void all_peers_are_replaced(size_t kib) { check_set(kib, other_peers); }
static void one_peer_gets_many_prefixes(size_t kib) { check_set(kib, many_prefixes); }

static void the_configuration_is_read(size_t kib) {
  struct end a = turn_on(SOCK_DGRAM, many_peers);
  char *text = NULL, *whole = settled(a.handle);
  int32_t code;
  CHECK_EQ(wg_set_config(a.handle, many_prefixes), WG_OK);
  wg_free(whole);
  whole = settled(a.handle);
  limit(kib);
  code = wg_get_config(a.handle, &text);
  CHECK((code == WG_OK && text != NULL) || (code == WG_ERR_RESOURCES && text == NULL));
  lift();
  wg_free(text);
  text = settled(a.handle);
  CHECK_TEXT(text, whole);
  wg_free(text);
  wg_free(whole);
  turn_off(a);
}

static void a_tunnel_is_turned_on(size_t kib) {
  struct end a;
  int pair[2], fds, tasks = threads();
  make_pair(SOCK_DGRAM, pair);
  turn_off(turn_on(SOCK_DGRAM, "")); /* what a process has once */
  fds = open_fds();
  limit(kib);
  a.handle = wg_turn_on(pair[0], many_peers);
  lift();
  CHECK(a.handle > 0 || a.handle == WG_ERR_RESOURCES);
  if (a.handle < 0) {
    check_threads(tasks);
    CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
    CHECK_EQ(open_fds(), fds);
    a.handle = wg_turn_on(pair[0], many_peers);
    CHECK(a.handle > 0);
  }
  a.app = pair[1];
  turn_off(a);
}

static void a_bind_is_opened(size_t kib) {
  uint16_t port = 0;
  int32_t bind;
  limit(kib);
  bind = wg_udp_open(NULL, &port);
  lift();
  CHECK(bind > 0 || bind == WG_ERR_RESOURCES);
  if (bind < 0) bind = wg_udp_open(NULL, &port);
  CHECK(bind > 0);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
}

/* The first allocation that fails is another one each time. Above the last of them all succeeds. */
static const size_t limits[] = {0,    64,   160,  256,  512,   768,   1024,  1100,  1536,   2048,  3072,
                                4096, 6000, 8192, 9001, 12000, 16384, 20000, 32768, 50000, 100000};

static void check(const char *name, void (*test)(size_t kib)) {
  size_t i;
  for (i = 0; i < sizeof limits / sizeof limits[0]; i++) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      test(limits[i]);
      _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (status != 0) {
      fprintf(stderr, "%s, %zu KiB above what is taken: status %d\n", name, limits[i], status);
      exit(1);
    }
  }
}

int main(void) {
  make_texts();
  check("many peers come", many_peers_come);
  check("all peers are replaced", all_peers_are_replaced);
  check("one peer gets many prefixes", one_peer_gets_many_prefixes);
  check("the configuration is read", the_configuration_is_read);
  check("a tunnel is turned on", a_tunnel_is_turned_on);
  check("a bind is opened", a_bind_is_opened);
  return 0;
}
