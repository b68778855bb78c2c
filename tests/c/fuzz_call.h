/* What each fuzzed call of tests/c/fuzz.c goes through: whose handle it gets, how it may end, what calls it back. */
#ifndef FUZZ_CALL_H
#define FUZZ_CALL_H

#include "fuzz.h"

enum { CALLERS = 4, TURNERS = 2, SLOTS = CALLERS + 2 * TURNERS, GONE = 64 };

/* Handles that may be valid at this moment, by kind, and some that are not any more. */
static _Atomic int32_t tunnels[SLOTS], binds[SLOTS], gone[GONE];

/* A thread that makes calls. */
struct caller {
  struct dice dice;
  int slot, number;
  struct function *function; /* which is called */
  char text[4096];
};

struct function {
  const char *name;
  void (*call)(struct caller *);
  uint64_t errors; /* with which it may fail, as the header says */
  atomic_ulong calls, failures;
};

/* How a call ended. */

static void judge(struct caller *c, long long result, int well) {
  struct function *function = c->function;
  atomic_fetch_add(&function->calls, 1);
  if (well) return;
  atomic_fetch_add(&function->failures, 1);
  if (result < 0 && result > -64 && (function->errors >> -result & 1) != 0) {
    CHECK(wg_last_error()[0] != '\0');
    CHECK(strstr(wg_last_error(), PRIVATE_A) == NULL && strstr(wg_last_error(), PRIVATE_B) == NULL);
    return;
  }
  fprintf(stderr, "%s returned %lld, which is not documented: %s\n", function->name, result, wg_last_error());
  exit(1);
}

static int status(struct caller *c, long long result) {
  judge(c, result, result == WG_OK);
  return result == WG_OK;
}

static int number(struct caller *c, long long result) {
  judge(c, result, result >= 0);
  return result >= 0;
}

/* For those that cannot fail. */
static void fine(struct caller *c, int condition) {
  CHECK(condition);
  judge(c, 0, 1);
}

/* Handles. */

static int32_t any_handle(struct caller *c, _Atomic int32_t *right, _Atomic int32_t *wrong) {
  static const int32_t never[] = {0, -1, INT32_MIN, INT32_MAX, WG_ERR_UNKNOWN_HANDLE, WG_ERR_BUSY};
  switch (below(&c->dice, 8)) {
  case 0: return never[below(&c->dice, COUNT_OF(never))];
  case 1: return (int32_t)roll(&c->dice);
  case 2: return atomic_load(&gone[below(&c->dice, GONE)]);
  case 3: return atomic_load(&wrong[below(&c->dice, SLOTS)]);
  default: return atomic_load(&right[below(&c->dice, SLOTS)]);
  }
}

static int32_t tunnel(struct caller *c) { return any_handle(c, tunnels, binds); }
static int32_t a_bind(struct caller *c) { return any_handle(c, binds, tunnels); }

static void forget(int32_t handle) {
  static atomic_uint next;
  atomic_store(&gone[atomic_fetch_add(&next, 1) % GONE], handle);
}

static void end_tunnel(int32_t handle) {
  int32_t result;
  if (handle <= 0) return;
  result = wg_turn_off(handle);
  CHECK(result == WG_OK || result == WG_ERR_UNKNOWN_HANDLE); /* another thread may have been first */
  CHECK_EQ(wg_turn_off(handle), WG_ERR_UNKNOWN_HANDLE);
  forget(handle);
}

static void end_bind(int32_t handle) {
  int32_t result;
  if (handle <= 0) return;
  result = wg_udp_close(handle);
  CHECK(result == WG_OK || result == WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_close(handle), WG_ERR_UNKNOWN_HANDLE);
  forget(handle);
}

/* Callbacks. They answer this and that, and try what they must not. */

static unsigned any_answer(void) {
  static atomic_uint asked;
  return atomic_fetch_add(&asked, 1) % 16;
}

static int32_t protects(void *user, int32_t fd, uint32_t family) {
  still_there(user);
  CHECK(is_open(fd) && (family == WG_IPV4 || family == WG_IPV6));
  return any_answer() == 0;
}

static int32_t resolves(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  unsigned answer = any_answer();
  still_there(user);
  CHECK(strlen(host) > 0 && capacity == 16);
  CHECK_EQ(wg_trim(1), WG_ERR_BUSY);
  addresses[0].family = answer % 3 == 0 ? WG_IPV6 : WG_IPV4;
  if (answer % 3 == 0) addresses[0].bytes[15] = 1;
  else addresses[0].bytes[0] = 127, addresses[0].bytes[3] = 1;
  *count = answer == 1 ? 0 : answer == 2 ? SIZE_MAX : answer == 3 ? 2 : 1;
  return answer == 4 ? 77 : answer == 5 ? -12345 : answer == 6 ? WG_ERR_NOT_FOUND : WG_OK;
}

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  still_there(user);
  CHECK(handle >= 0 && level >= WG_LOG_ERROR && level <= WG_LOG_TRACE);
  CHECK(strstr(text, PRIVATE_A) == NULL && strstr(text, PRIVATE_B) == NULL && strstr(text, PSK) == NULL);
  if (any_answer() == 0) CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  still_there(user);
  CHECK(handle > 0 && event->struct_size == sizeof *event && event->kind > 0);
  CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
}

static size_t any_count(size_t count) {
  unsigned answer = any_answer();
  return answer == 0 ? 0 : answer == 1 ? SIZE_MAX : answer == 2 ? count + 1 : answer == 3 ? count / 2 : count;
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  still_there(user);
  CHECK(handle > 0 && count > 0 && count <= WG_BATCH_SIZE && packets[count - 1].len > 0);
  CHECK_EQ(wg_pause(handle), WG_ERR_BUSY);
  CHECK_EQ(wg_set_tun_fd(handle, -1, WG_FD_TAKE, 0), WG_ERR_BUSY);
  (void)wg_tun_inject(handle, packets, count, NULL);
  return any_count(count);
}

static void has_room(void *user, int32_t handle) {
  still_there(user);
  CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
  (void)wg_set_mtu(handle, 1280);
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  still_there(user);
  CHECK(handle > 0 && count > 0 && count <= WG_BATCH_SIZE && datagrams[count - 1].len > 0);
  CHECK_EQ(wg_turn_off(handle), WG_ERR_BUSY);
  (void)wg_transport_receive(handle, datagrams, count, NULL);
  return any_count(count);
}

#endif
