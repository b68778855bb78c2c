/* What the C tests have in common. Each test is one program; it says what failed and exits with 1. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE
#include "wg_embed.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Whatever hangs, fails. A test may set a limit of its own. */
__attribute__((constructor)) static void limit_the_time(void) { alarm(280); }

#define CHECK(condition)                                                                          \
  do {                                                                                            \
    if (!(condition)) {                                                                           \
      fprintf(stderr, "%s:%d: %s (errno %d, last error \"%s\")\n", __FILE__, __LINE__, #condition, \
              errno, wg_last_error());                                                            \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

#define CHECK_EQ(actual, expected)                                                                \
  do {                                                                                            \
    long long a_ = (actual), e_ = (expected);                                                     \
    if (a_ != e_) {                                                                               \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld (errno %d, last error \"%s\")\n", __FILE__,     \
              __LINE__, #actual, a_, e_, errno, wg_last_error());                                 \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

/* The call fails with this code, and the thread's text has this in it. */
#define CHECK_FAILS(call, code, text)              \
  do {                                             \
    CHECK_EQ(call, code);                          \
    CHECK(strstr(wg_last_error(), text) != NULL);  \
  } while (0)

#define CHECK_TEXT(actual, expected)                                                               \
  do {                                                                                            \
    const char *a_ = (actual), *e_ = (expected);                                                  \
    if (strcmp(a_, e_) != 0) {                                                                    \
      fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #actual, a_, e_);   \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

#define PRIVATE_A "4041414141414141414141414141414141414141414141414141414141414141"
#define PUBLIC_A "7a1a4e709bf085ac494aba0469b9b1eda0ab1f78b16aabb79ffeda90623e8522"
#define PRIVATE_B "4042424242424242424242424242424242424242424242424242424242424242"
#define PUBLIC_B "132c442be010fbd57e72603328aa76e71fccc1503aae219327d14d9c9993f472"
#define PSK "0303030303030303030303030303030303030303030303030303030303030303"

/* How often something that must come about is looked for, milliseconds apart: only a test that hangs reaches it. */
#define TRIES 60000

static inline void sleep_ms(long ms) {
  struct timespec t;
  t.tv_sec = ms / 1000;
  t.tv_nsec = ms % 1000 * 1000000;
  nanosleep(&t, NULL);
}

/* What another thread may be writing. */
static inline int get_int(int *from) { return __atomic_load_n(from, __ATOMIC_SEQ_CST); }

static inline int entries(const char *path) {
  DIR *dir = opendir(path);
  int count = 0;
  CHECK(dir != NULL);
  while (readdir(dir) != NULL) count++;
  closedir(dir);
  return count;
}

static inline int open_fds(void) { return entries("/proc/self/fd"); }
static inline int threads(void) { return entries("/proc/self/task"); }

/* A thread that has ended may be listed for a moment longer. The limit only bounds a failure. */
static inline void check_threads(int expected) {
  int i;
  for (i = 0; i < 6000 && threads() != expected; i++) sleep_ms(5);
  CHECK_EQ(threads(), expected);
}

#ifdef __SANITIZE_THREAD__
static inline void *does_nothing(void *argument) { return argument; }

/* With the first thread ThreadSanitizer begins one of its own: before any are counted. */
__attribute__((constructor)) static void begin_the_sanitizers_thread(void) {
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, does_nothing, NULL), 0);
  CHECK_EQ(pthread_join(thread, NULL), 0);
}
#endif

static inline int is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }
static inline int is_nonblocking(int fd) { return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }

static inline void make_pair(int kind, int pair[2]) { CHECK_EQ(socketpair(AF_UNIX, kind, 0, pair), 0); }

static inline char *get(int32_t handle) {
  char *text = NULL;
  CHECK_EQ(wg_get_config(handle, &text), WG_OK);
  CHECK(text != NULL);
  return text;
}

static inline int listen_port(int32_t handle) {
  char *text = get(handle), *line = strstr(text, "listen_port=");
  int port;
  CHECK(line != NULL);
  port = atoi(line + strlen("listen_port="));
  CHECK(port > 0 && port < 65536);
  wg_free(text);
  return port;
}

/* A tunnel and the app's end of its packets. */
struct end {
  int32_t handle;
  int app;
};

static inline struct end turn_on(int kind, const char *uapi) {
  struct end end;
  int pair[2];
  make_pair(kind, pair);
  end.handle = wg_turn_on(pair[0], uapi);
  CHECK(end.handle > 0);
  end.app = pair[1];
  return end;
}

static inline void turn_off(struct end end) {
  CHECK_EQ(wg_turn_off(end.handle), WG_OK);
  CHECK_EQ(close(end.app), 0);
}

static inline void key_bytes(const char *hex, uint8_t key[WG_KEY_LEN]) {
  CHECK_EQ(wg_keys_from_hex(hex, key), WG_OK);
}

/* The value of a counter. */
static inline uint64_t counter(struct end end, const char *name) {
  wg_counter_t counters[64];
  size_t count, i;
  CHECK_EQ(wg_counters(end.handle, counters, 64, &count), WG_OK);
  CHECK(count <= 64);
  for (i = 0; i < count; i++)
    if (strcmp(counters[i].name, name) == 0) return counters[i].value;
  fprintf(stderr, "there is no counter %s\n", name);
  exit(1);
}

/* Makes `end` know its peer at 127.0.0.1:`port` with 10.9.0.`host`/32. */
static inline void add_peer(struct end end, const char *key, int port, int host) {
  char text[512];
  snprintf(text, sizeof text,
           "public_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.%d/32\n", key, PSK, port, host);
  CHECK_EQ(wg_set_config(end.handle, text), WG_OK);
}

/* Two tunnels that know each other: a is 10.9.0.1, b is 10.9.0.2. */
static inline void turn_on_both(int kind, struct end *a, struct end *b) {
  *a = turn_on(kind, "private_key=" PRIVATE_A "\nlisten_port=0\n");
  *b = turn_on(kind, "private_key=" PRIVATE_B "\n");
  add_peer(*a, PUBLIC_B, listen_port(b->handle), 2);
  add_peer(*b, PUBLIC_A, listen_port(a->handle), 1);
}

/* An IPv4 packet of `len` bytes with recognizable contents. */
static inline void make_packet(unsigned char *packet, int len, int from, int to, int number) {
  int i;
  memset(packet, 0, 20);
  packet[0] = 0x45;
  packet[2] = (unsigned char)(len >> 8);
  packet[3] = (unsigned char)len;
  packet[8] = 64;
  packet[9] = 253; /* for experiments */
  packet[12] = packet[16] = 10;
  packet[13] = packet[17] = 9;
  packet[15] = (unsigned char)from;
  packet[19] = (unsigned char)to;
  for (i = 20; i < len; i++) packet[i] = (unsigned char)(number + i);
}

/* Sends packets in at one end and takes them out at the other. */
static inline void check_passes(int in, int out, int from, int to, int count) {
  static const int lens[] = {20, 21, 100, 576, 1419, 1420};
  unsigned char sent[1500], got[2000];
  int i;
  for (i = 0; i < count; i++) {
    int len = lens[i % 6];
    struct pollfd ready = {0, POLLIN, 0};
    ready.fd = out;
    make_packet(sent, len, from, to, i);
    CHECK_EQ(send(in, sent, (size_t)len, 0), len);
    CHECK_EQ(poll(&ready, 1, 60000), 1);
    CHECK_EQ(recv(out, got, sizeof got, 0), len);
    CHECK_EQ(memcmp(sent, got, (size_t)len), 0);
  }
}

static inline void check_exchange(struct end a, struct end b) {
  check_passes(a.app, b.app, 1, 2, 30);
  check_passes(b.app, a.app, 2, 1, 30);
}

static inline void start(pthread_t *thread, void *(*body)(void *), void *argument) {
  CHECK_EQ(pthread_create(thread, NULL, body, argument), 0);
}

static inline void join(pthread_t thread) { CHECK_EQ(pthread_join(thread, NULL), 0); }

#endif
