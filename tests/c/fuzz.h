/* The arguments of the calls of tests/c/fuzz.c: numbers, texts, descriptors and structs that are seldom valid, and the
 * accounts of what was handed over. */
#ifndef FUZZ_H
#define FUZZ_H

#include "check.h"

#include <limits.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* A number that follows from the seed (splitmix64). */
struct dice {
  uint64_t state;
};

static inline uint64_t roll(struct dice *dice) {
  uint64_t z = dice->state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static inline size_t below(struct dice *dice, size_t limit) { return (size_t)(roll(dice) % limit); }
static inline int one_in(struct dice *dice, size_t many) { return below(dice, many) == 0; }

/* What is given away with a `destroy`, which must be called once. The caller holds it as well, to look. */
struct token {
  atomic_int holders, destroyed;
};

static atomic_long tokens; /* that are not freed */

static inline struct token *new_token(void) {
  struct token *token = malloc(sizeof *token);
  CHECK(token != NULL);
  atomic_init(&token->holders, 2);
  atomic_init(&token->destroyed, 0);
  atomic_fetch_add(&tokens, 1);
  return token;
}

static inline void let_go(struct token *token) {
  if (atomic_fetch_sub(&token->holders, 1) != 1) return;
  free(token);
  atomic_fetch_sub(&tokens, 1);
}

static inline void destroy_token(void *user) {
  struct token *token = user;
  CHECK_EQ(atomic_fetch_add(&token->destroyed, 1), 0);
  let_go(token);
}

/* Each callback begins with it. */
static inline void still_there(void *user) {
  struct token *token = user;
  CHECK_EQ(atomic_load(&token->destroyed), 0);
}

/* After a call: `destroy` was called if it was passed and the call has failed; it is never called if it was not. */
static inline void settle(struct token *token, int failed, int given) {
  if (failed || !given) CHECK_EQ(atomic_load(&token->destroyed), given);
  if (!given) let_go(token);
  let_go(token);
}

/* Room for something to be written, of just its size, with known contents and a fence. */
enum { FENCE = 32, FILL = 0xa5 };

static inline void *new_room(size_t size) {
  unsigned char *room = malloc(size + FENCE);
  CHECK(room != NULL);
  memset(room, FILL, size + FENCE);
  return room;
}

/* After a call that was to write nothing beyond the first `written` of `size` bytes. */
static inline void free_room(void *room, size_t written, size_t size) {
  const unsigned char *bytes = room;
  size_t i;
  for (i = written; i < size + FENCE; i++) CHECK(bytes[i] == FILL);
  free(room);
}

/* A struct_size, for a struct that has `size` bytes: mostly right. */
static inline size_t any_size(struct dice *dice, size_t size) {
  static const size_t odd[] = {0, 1, 7, 8, 9, 4095, 4096, 4097, 65536, SIZE_MAX / 2, SIZE_MAX};
  switch (below(dice, 4)) {
  case 0: return odd[below(dice, COUNT_OF(odd))];
  case 1: return size - 16 + below(dice, 33);
  case 2: return below(dice, 5000);
  default: return size;
  }
}

/* How many bytes there really are for a struct of that struct_size: all, unless the number is out of the question. */
static inline size_t real_size(size_t struct_size, size_t size) {
  return struct_size > 65536 ? size : struct_size < sizeof(size_t) ? sizeof(size_t) : struct_size;
}

/* A copy of a struct of `size` bytes with this struct_size, to be freed. Sometimes it sets unknown fields. */
static inline void *sized_copy(struct dice *dice, const void *right, size_t size, size_t struct_size, int *unknown) {
  size_t real = real_size(struct_size, size);
  unsigned char *copy = calloc(1, real);
  CHECK(copy != NULL);
  memcpy(copy, right, real < size ? real : size);
  memcpy(copy, &struct_size, sizeof struct_size);
  *unknown = real > size && one_in(dice, 2);
  if (*unknown) copy[size + below(dice, real - size)] = 1;
  return copy;
}

/* Whether a struct of `size` bytes with this struct_size is read at all. */
static inline int is_size(size_t struct_size, size_t size) { return struct_size >= size && struct_size <= 4096; }

/* Text without sense. Only the loopback address is ever named as an endpoint, and those lines are left as they are. */
static inline void add_line(struct dice *dice, char *text, size_t room) {
  static const char *const lines[] = {
      "private_key=" PRIVATE_A, "private_key=" PRIVATE_B, "private_key=xyz", "private_key=", "listen_port=0",
      "listen_port=65536", "listen_port=-1", "fwmark=0", "fwmark=4294967296", "replace_peers=true", "replace_peers=false",
      "public_key=" PUBLIC_A, "public_key=" PUBLIC_B, "public_key=" PSK, "remove=true", "update_only=true",
      "preshared_key=" PSK, "endpoint=127.0.0.1:9", "endpoint=[::1]:9", "endpoint=127.0.0.1:0", "endpoint=127.0.0.1",
      "endpoint=localhost:9", "persistent_keepalive_interval=1", "persistent_keepalive_interval=65536",
      "replace_allowed_ips=true", "allowed_ip=10.9.0.1/32", "allowed_ip=10.9.0.2/32", "allowed_ip=0.0.0.0/0",
      "allowed_ip=::/0", "allowed_ip=10.0.0.0/33", "protocol_version=1", "protocol_version=2", "set=1", "errno=0", "=", "",
      "\xff\xfe", "\x01=\x02"};
  const char *line = lines[below(dice, COUNT_OF(lines))];
  size_t len = strlen(text), end;
  if (len + strlen(line) + 2 > room) return;
  strcpy(text + len, line);
  end = len + strlen(line);
  if (end > len && strstr(line, "endpoint") == NULL && one_in(dice, 8))
    text[len + below(dice, end - len)] = (char)(1 + below(dice, 255));
  if (!one_in(dice, 16)) strcpy(text + strlen(text), "\n");
}

/* Lines for a tunnel, or NULL. */
static inline const char *any_config(struct dice *dice, char *text, size_t room) {
  size_t lines = below(dice, 4) == 0 ? below(dice, 30) : below(dice, 6), i;
  if (one_in(dice, 20)) return NULL;
  text[0] = '\0';
  for (i = 0; i < lines; i++) add_line(dice, text, room);
  return text;
}

/* Any text, mostly close to one of `right`; or NULL. */
static inline const char *any_text(struct dice *dice, const char *const *right, size_t count, char *text, size_t room) {
  size_t len, i;
  if (one_in(dice, 20)) return NULL;
  if (one_in(dice, 4)) {
    len = below(dice, room);
    for (i = 0; i < len; i++) text[i] = (char)(1 + below(dice, 255));
    text[len] = '\0';
    return text;
  }
  snprintf(text, room, "%s", right[below(dice, count)]);
  len = strlen(text);
  if (len > 0 && one_in(dice, 2)) text[below(dice, len)] = (char)(below(dice, 4) ? 1 + below(dice, 255) : 0);
  return text;
}

/* A descriptor that a tunnel or a bind is to be made of, and the other end, or -1. */
struct descriptor {
  int fd, other;
};

/* High numbers, which nobody else is given while they are closed. */
enum { CLOSED_NUMBERS = 1500 };

static inline int udp_socket(int bound) {
  struct sockaddr_in address = {0};
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(fd >= 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bound) CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static inline struct descriptor pair_of(int kind) {
  struct descriptor made;
  int pair[2];
  make_pair(kind, pair);
  made.fd = pair[0];
  made.other = pair[1];
  return made;
}

/* `number` is the caller's own, to be a number that is closed. */
static inline struct descriptor any_descriptor(struct dice *dice, int number) {
  static const int never[] = {-1, INT_MIN, INT_MAX, -2};
  struct descriptor made = {-1, -1};
  int ends[2];
  switch (below(dice, 12)) {
  case 0: made.fd = never[below(dice, COUNT_OF(never))]; break;
  case 1:
    ends[0] = eventfd(0, 0);
    made.fd = dup2(ends[0], number);
    CHECK_EQ(made.fd, number);
    CHECK_EQ(close(made.fd), 0);
    CHECK_EQ(close(ends[0]), 0);
    break;
  case 2: made.fd = open("/dev/null", O_RDWR); break;
  case 3:
    CHECK_EQ(pipe(ends), 0);
    made.fd = ends[0];
    made.other = ends[1];
    break;
  case 4: made = pair_of(SOCK_STREAM); break;
  case 5: made.fd = memfd_create("fuzz", 0); break;
  case 6: made.fd = open("/", O_RDONLY | O_DIRECTORY); break;
  case 7: made.fd = eventfd(0, 0); break;
  case 8: made.fd = udp_socket(0); break;
  case 9: made.fd = udp_socket(1); break;
  case 10: made = pair_of(SOCK_SEQPACKET); break;
  default: made = pair_of(SOCK_DGRAM); break;
  }
  return made;
}

/* After a call that has taken the descriptor, or else has left it as it was. */
static inline void close_descriptor(struct descriptor made, int number, int taken) {
  if (!taken && made.fd >= 0 && made.fd != INT_MAX && made.fd != number) CHECK_EQ(close(made.fd), 0);
  if (made.other >= 0) CHECK_EQ(close(made.other), 0);
}

/* An endpoint that is on this machine, or none. */
static inline wg_endpoint_t any_endpoint(struct dice *dice) {
  wg_endpoint_t endpoint;
  static const uint16_t families[] = {WG_IPV4, WG_IPV6, WG_IPV4, WG_IPV6, 0, 5, 65535};
  memset(&endpoint, 0, sizeof endpoint);
  endpoint.family = families[below(dice, COUNT_OF(families))];
  endpoint.port = (uint16_t)(one_in(dice, 4) ? 0 : 9);
  if (endpoint.family == WG_IPV6) endpoint.address[15] = 1;
  else endpoint.address[0] = 127, endpoint.address[3] = 1;
  if (one_in(dice, 3)) {
    size_t i;
    for (i = 0; i < sizeof endpoint.source; i++) endpoint.source[i] = (uint8_t)roll(dice);
    endpoint.source_interface = (uint32_t)below(dice, 5);
    endpoint.scope_id = (uint32_t)below(dice, 3);
  }
  return endpoint;
}

#endif
