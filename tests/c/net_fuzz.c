/*
 * Every wg_net_ function, thousands of times, with what no program should pass, on several threads, while another turns
 * the networks on and off under them: nothing crashes, hangs or is left behind, and each call ends as its text says.
 *
 *     net_fuzz [SEED [SECONDS]]
 *
 * capi/ffi/tests/c_abi/main.rs sees to it that no function is missing.
 */
#include "fuzz.h"
#include "net.h"

enum { CALLERS = 3, KEPT = 64, GONE = 16, AT_LEAST = 100 };

/* Networks that may be on at this moment: number 1 is where number 0 dials. And handles that are not valid any more. */
static _Atomic int32_t handles[2], gone[GONE];
static atomic_int done;
/* Numbers that were held back. */
static _Atomic uint64_t held[8];
/* And of proxies. */
static _Atomic int32_t proxies[8];

struct caller {
  struct dice dice;
  struct function *function; /* which is called */
  int fds[KEPT];             /* listeners and connections, or -1 */
  char text[256];
};

struct function {
  const char *name;
  void (*call)(struct caller *);
  uint64_t errors; /* with which it may fail, as the header says */
  atomic_ulong calls, failures;
};

/* How a call ended. */
static int status(struct caller *c, wg_result_t result) {
  struct function *function = c->function;
  atomic_fetch_add(&function->calls, 1);
  if (result == WG_OK) return 1;
  atomic_fetch_add(&function->failures, 1);
  if (result < 0 && result > -64 && (function->errors >> -result & 1) != 0) {
    CHECK(wg_last_error()[0] != '\0');
    return 0;
  }
  fprintf(stderr, "%s returned %d, which is not documented: %s\n", function->name, (int)result, wg_last_error());
  exit(1);
}

static int32_t any_handle(struct caller *c, int mostly) {
  static const int32_t never[] = {0, -1, INT32_MIN, INT32_MAX};
  switch (below(&c->dice, 10)) {
  case 0: return never[below(&c->dice, COUNT_OF(never))];
  case 1: return atomic_load(&gone[below(&c->dice, GONE)]);
  case 2: return atomic_load(&handles[1 - mostly]);
  default: return atomic_load(&handles[mostly]);
  }
}

static int any_timeout(struct caller *c) {
  static const int timeouts[] = {0, 0, 1, 1, 20, 200};
  return timeouts[below(&c->dice, COUNT_OF(timeouts))];
}

/* A descriptor of ours, or not. */
static int any_fd(struct caller *c) {
  static const int never[] = {-1, INT_MIN, INT_MAX, 1500, 0, 2};
  int fd = c->fds[below(&c->dice, KEPT)];
  return one_in(&c->dice, 6) ? never[below(&c->dice, COUNT_OF(never))] : fd;
}

/* Keeps a descriptor in place of another one, which it closes, sometimes with data unread. */
static void keep_fd(struct caller *c, int fd) {
  int *place = &c->fds[below(&c->dice, KEPT)];
  CHECK(fd > 2 && is_open(fd));
  if (*place >= 0) close(*place);
  *place = fd;
}

static const char *any_network(struct caller *c) {
  static const char *const networks[] = {"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"};
  return one_in(&c->dice, 8) ? any_text(&c->dice, networks, COUNT_OF(networks), c->text, 16)
                             : networks[below(&c->dice, COUNT_OF(networks))];
}

static const char *const targets[] = {"10.9.0.2:1", "10.9.0.2:2", "[fd09::2]:1", "192.0.2.1:80", "192.0.2.1:81",
                                      "[2001:db8::1]:80", "10.9.0.2:7", "a.test:80", "10.9.0.2", "[::1]:1",
                                      "127.0.0.1:1"};
static const char *const places[] = {":1", ":2", "10.9.0.2:1", "10.9.0.2:0", "[fd09::2]:1", ":0", "10.9.0.9:1", ""};
static const char *const names[] = {"10.9.0.2", "fd09::2", "192.0.2.1", "a.test", "", "-", "a..b"};

static const char *any_of(struct caller *c, const char *const *right, size_t count, char *text, size_t room) {
  return one_in(&c->dice, 8) ? any_text(&c->dice, right, count, text, room) : right[below(&c->dice, count)];
}

static void fuzz_wg_net_dial(struct caller *c) {
  char text[64];
  const char *target = any_of(c, targets, COUNT_OF(targets), text, sizeof text);
  int32_t fd = -7;
  int32_t *out = one_in(&c->dice, 20) ? NULL : &fd;
  if (status(c, wg_net_dial(any_handle(c, 0), any_network(c), target, any_timeout(c), out))) {
    (void)send(fd, c->text, 1 + below(&c->dice, 200), MSG_DONTWAIT | MSG_NOSIGNAL);
    keep_fd(c, fd);
  } else {
    CHECK_EQ(fd, -7);
  }
}

static void fuzz_wg_net_listen(struct caller *c) {
  static const uint32_t backlogs[] = {0, 1, 2, 128, UINT32_MAX};
  char text[64];
  const char *place = any_of(c, places, COUNT_OF(places), text, sizeof text);
  int32_t fd = -7;
  if (status(c, wg_net_listen(any_handle(c, 1), any_network(c), place, backlogs[below(&c->dice, COUNT_OF(backlogs))],
                              one_in(&c->dice, 20) ? NULL : &fd)))
    keep_fd(c, fd);
  else CHECK_EQ(fd, -7);
}

static void fuzz_wg_net_accept(struct caller *c) {
  wg_net_connection_t *whose = new_room(sizeof *whose);
  int32_t fd = -7;
  int accepted = status(c, wg_net_accept(any_handle(c, 1), any_fd(c), (int32_t)below(&c->dice, 2),
                                         one_in(&c->dice, 20) ? NULL : &fd, one_in(&c->dice, 8) ? NULL : whose));
  if (accepted) {
    (void)recv(fd, c->text, sizeof c->text, MSG_DONTWAIT);
    (void)send(fd, c->text, below(&c->dice, 100), MSG_DONTWAIT | MSG_NOSIGNAL);
    keep_fd(c, fd);
  } else {
    CHECK_EQ(fd, -7);
  }
  free_room(whose, accepted ? sizeof *whose : 0, sizeof *whose);
}

static void fuzz_address(struct caller *c, wg_result_t (*get)(int32_t, int32_t, wg_endpoint_t *)) {
  wg_endpoint_t *address = new_room(sizeof *address);
  int got = status(c, get(any_handle(c, (int)below(&c->dice, 2)), any_fd(c), one_in(&c->dice, 20) ? NULL : address));
  free_room(address, got ? sizeof *address : 0, sizeof *address);
}

static void fuzz_wg_net_local_address(struct caller *c) { fuzz_address(c, wg_net_local_address); }
static void fuzz_wg_net_peer_address(struct caller *c) { fuzz_address(c, wg_net_peer_address); }

static void fuzz_wg_net_reset(struct caller *c) {
  status(c, wg_net_reset(any_handle(c, (int)below(&c->dice, 2)), any_fd(c)));
}

static uint32_t is_asked(void *user, int32_t handle, const wg_net_connection_t *connection) {
  static atomic_uint asked;
  unsigned answer = atomic_fetch_add(&asked, 1) % 8;
  still_there(user);
  CHECK(handle > 0 && connection->id > 0);
  CHECK_EQ(wg_net_answer(handle, connection->id, WG_NET_ACCEPT), WG_ERR_BUSY);
  if (answer >= 5) atomic_store(&held[answer], connection->id);
  return answer >= 5 ? WG_NET_HOLD : answer == 4 ? 77 : answer;
}

static void takes(void *user, int32_t handle, const wg_net_connection_t *connection, int32_t fd) {
  still_there(user);
  CHECK(handle > 0 && connection->id == 0 && is_open(fd));
  close(fd);
}

static void fuzz_wg_net_intercept(struct caller *c) {
  static const uint32_t numbers[] = {0, 0, 0, 1, 1000, UINT32_MAX};
  wg_net_intercept_t right = WG_NET_INTERCEPT_INIT;
  struct token *token = new_token();
  size_t size = any_size(&c->dice, sizeof right);
  int null = one_in(&c->dice, 8), unknown, set, read;
  int32_t listener = -7;
  void *options;
  if (one_in(&c->dice, 2)) right.dialled = is_asked;
  if (one_in(&c->dice, 2)) right.connected = takes;
  right.user = token;
  right.destroy = destroy_token;
  right.udp_idle_ms = numbers[below(&c->dice, COUNT_OF(numbers))];
  right.max_flows = numbers[below(&c->dice, COUNT_OF(numbers))];
  right.hold_ms = numbers[below(&c->dice, COUNT_OF(numbers))];
  right.backlog = numbers[below(&c->dice, COUNT_OF(numbers))];
  right.flags = (uint32_t)below(&c->dice, one_in(&c->dice, 8) ? 4 : 2);
  right.reserved = one_in(&c->dice, 20);
  if (one_in(&c->dice, 2)) size = sizeof right;
  options = sized_copy(&c->dice, &right, sizeof right, size, &unknown);
  set = status(c, wg_net_intercept(any_handle(c, 1), null ? NULL : options, one_in(&c->dice, 20) ? NULL : &listener));
  read = !null && is_size(size, sizeof right);
  CHECK(!set || null || (read && !unknown));
  settle(token, !set, read);
  free(options);
  if (listener != -7) {
    CHECK(set && !null && right.connected == NULL);
    keep_fd(c, listener);
  }
}

static void fuzz_wg_net_answer(struct caller *c) {
  uint64_t id = one_in(&c->dice, 8) ? roll(&c->dice) : atomic_load(&held[below(&c->dice, COUNT_OF(held))]);
  status(c, wg_net_answer(any_handle(c, 1), id, (uint32_t)below(&c->dice, one_in(&c->dice, 8) ? 5 : 3)));
}

static void fuzz_wg_net_resolve(struct caller *c) {
  static const uint32_t families[] = {0, 0, WG_IPV4, WG_IPV6, 5};
  char text[64];
  const char *name = any_of(c, names, COUNT_OF(names), text, sizeof text);
  size_t capacity = below(&c->dice, 3), count = 77, size = capacity * sizeof(wg_address_t);
  wg_address_t *room = new_room(size);
  uint32_t family = families[below(&c->dice, COUNT_OF(families))];
  int found = status(c, wg_net_resolve(any_handle(c, 0), name, family, any_timeout(c),
                                       one_in(&c->dice, 20) ? NULL : room, capacity,
                                       one_in(&c->dice, 20) ? NULL : &count));
  CHECK(found || count == 77);
  free_room(room, found ? (count < capacity ? count : capacity) * sizeof *room : 0, size);
}

static void fuzz_wg_net_ping(struct caller *c) {
  static const size_t sizes[] = {0, 1, 56, 1400, 5000, 65535, SIZE_MAX};
  char text[64];
  const char *name = any_of(c, names, COUNT_OF(names), text, sizeof text);
  uint64_t took = 0;
  status(c, wg_net_ping(any_handle(c, 0), name, sizes[below(&c->dice, COUNT_OF(sizes))], any_timeout(c),
                        one_in(&c->dice, 8) ? NULL : &took));
}

static void fuzz_proxy(struct caller *c,
                       int32_t (*proxy)(int32_t, const char *, const char *, const char *, uint32_t, char *)) {
  static const char *const right[] = {"127.0.0.1:0", "[::1]:0", "127.0.0.2:0"};
  static const char *const logins[] = {"me", "secret", "a:b", ""};
  char texts[3][64], *room = new_room(WG_ENDPOINT_TEXT_LEN);
  const char *listen = one_in(&c->dice, 4) ? NULL : any_of(c, right, COUNT_OF(right), texts[0], 64);
  int has_login = one_in(&c->dice, 2);
  const char *user = has_login ? any_of(c, logins, COUNT_OF(logins), texts[1], 64) : NULL;
  const char *password = has_login ? any_of(c, logins, COUNT_OF(logins), texts[2], 64) : NULL;
  char *address = one_in(&c->dice, 8) ? NULL : room;
  int32_t number = proxy(any_handle(c, 0), listen, user, password, one_in(&c->dice, 8) ? 2 : 0, address);
  int started = status(c, number > 0 ? WG_OK : number);
  if (started) atomic_store(&proxies[below(&c->dice, COUNT_OF(proxies))], number);
  if (started && one_in(&c->dice, 2)) (void)wg_net_stop_proxy(atomic_load(&handles[0]), number);
  free_room(room, started && address != NULL ? WG_ENDPOINT_TEXT_LEN : 0, WG_ENDPOINT_TEXT_LEN);
}

static void fuzz_wg_net_socks5(struct caller *c) { fuzz_proxy(c, wg_net_socks5); }
static void fuzz_wg_net_http(struct caller *c) { fuzz_proxy(c, wg_net_http); }

static void fuzz_wg_net_stop_proxy(struct caller *c) {
  int32_t number = atomic_load(&proxies[below(&c->dice, COUNT_OF(proxies))]);
  if (one_in(&c->dice, 8)) number = (int32_t)roll(&c->dice);
  status(c, wg_net_stop_proxy(any_handle(c, 0), number));
}

/* The table. */

#define OF(code) (1ull << -(code))
#define HANDLE (OF(WG_ERR_UNKNOWN_HANDLE) | OF(WG_ERR_CLOSED) | OF(WG_ERR_RESOURCES))
#define NET (HANDLE | OF(WG_ERR_NULL) | OF(WG_ERR_INVALID))
#define NAME (OF(WG_ERR_NOT_FOUND) | OF(WG_ERR_IO) | OF(WG_ERR_UNSUPPORTED))
#define REACH (NET | NAME | OF(WG_ERR_TIMED_OUT) | OF(WG_ERR_UNREACHABLE))
#define PROXY (NET | OF(WG_ERR_ADDR_IN_USE) | OF(WG_ERR_NOT_FOUND) | OF(WG_ERR_PERMISSION) | OF(WG_ERR_IO))
#define FUZZED(name, errors) {#name, fuzz_##name, errors, 0, 0}

static struct function functions[] = {
    FUZZED(wg_net_dial, REACH | OF(WG_ERR_REFUSED)),
    FUZZED(wg_net_listen, NET | OF(WG_ERR_NOT_FOUND) | OF(WG_ERR_ADDR_IN_USE)),
    FUZZED(wg_net_accept, NET | OF(WG_ERR_TIMED_OUT)),
    FUZZED(wg_net_local_address, NET | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_net_peer_address, NET | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_net_reset, NET),
    FUZZED(wg_net_intercept, NET | OF(WG_ERR_UNSUPPORTED)),
    FUZZED(wg_net_answer, NET | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_net_resolve, REACH),
    FUZZED(wg_net_socks5, PROXY),
    FUZZED(wg_net_http, PROXY),
    FUZZED(wg_net_stop_proxy, NET | OF(WG_ERR_NOT_FOUND)),
    FUZZED(wg_net_ping, REACH),
};

static void *calls(void *argument) {
  struct caller *c = argument;
  int i;
  for (i = 0; i < KEPT; i++) c->fds[i] = -1;
  while (!atomic_load(&done)) {
    c->function = &functions[below(&c->dice, COUNT_OF(functions))];
    c->function->call(c);
  }
  for (i = 0; i < KEPT; i++)
    if (c->fds[i] >= 0) close(c->fds[i]);
  return NULL;
}

/* Whether each function has succeeded and has failed. */
static int all_ended_both_ways(void) {
  size_t i;
  for (i = 0; i < COUNT_OF(functions); i++) {
    unsigned long made = atomic_load(&functions[i].calls), failures = atomic_load(&functions[i].failures);
    if (made == failures || failures == 0) return 0;
  }
  return 1;
}

static unsigned long fewest_calls(const char **name) {
  unsigned long fewest = ULONG_MAX;
  size_t i;
  for (i = 0; i < COUNT_OF(functions); i++) {
    unsigned long count = atomic_load(&functions[i].calls);
    if (count < fewest) fewest = count, *name = functions[i].name;
  }
  return fewest;
}

int main(int argc, char **argv) {
  unsigned long seed = argc > 1 ? strtoul(argv[1], NULL, 0) : 20261129;
  long limit = argc > 2 ? atol(argv[2]) : 8, begin = (long)time(NULL);
  static struct caller callers[CALLERS];
  pthread_t threads_of_ours[CALLERS];
  const char *name = "";
  int i, fds, tasks, round, next = 0, length = 300;
  alarm((unsigned)limit + 120); /* Whatever hangs, fails. */
  printf("seed %lu\n", seed);
  fflush(stdout);
  fds = open_fds();
  tasks = threads();
  for (i = 0; i < CALLERS; i++) {
    callers[i].dice.state = seed * 1000 + (unsigned long)i;
    start(&threads_of_ours[i], calls, &callers[i]);
  }
  /* As often as there is time, and until each function was called well enough. */
  for (round = 0; (long)time(NULL) - begin < limit || fewest_calls(&name) < AT_LEAST || !all_ended_both_ways();
       round++) {
    /* A slow machine needs longer, until all of them succeed. */
    if ((long)time(NULL) - begin >= limit) length += 300;
    struct nets nets = turn_nets_on();
    atomic_store(&handles[0], nets.a);
    atomic_store(&handles[1], nets.b);
    sleep_ms(length);
    for (i = 0; i < 2; i++) {
      int32_t handle = atomic_exchange(&handles[i], 0);
      CHECK_EQ(wg_turn_off(handle), WG_OK);
      atomic_store(&gone[next++ % GONE], handle);
    }
  }
  atomic_store(&done, 1);
  for (i = 0; i < CALLERS; i++) join(threads_of_ours[i]);
  check_threads(tasks);
  CHECK_EQ(open_fds(), fds);
  CHECK_EQ(atomic_load(&tokens), 0); /* each `destroy` was called */
  printf("%zu functions, %d networks; %s was called least, %lu times\n", COUNT_OF(functions), round, name,
         fewest_calls(&name));
  return 0;
}
