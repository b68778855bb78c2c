/* How a tunnel ends for its functions, for calls that wait, and for threads that had its handle before it was on. */
#include "check.h"

/* All functions of a tunnel have this pointer in common, as those of an object do. */
struct shared {
  int running, destroyed, released, asked;
  int32_t handle;
};

static int value(int *number) { return __sync_fetch_and_add(number, 0); }
static void set(int *number) { CHECK(__sync_bool_compare_and_swap(number, 0, 1)); }

static void destroy(void *user) {
  struct shared *shared = user;
  CHECK_EQ(value(&shared->running), 0);
  __sync_fetch_and_add(&shared->destroyed, 1);
}

static int32_t resolves_slowly(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  struct shared *shared = user;
  int tries;
  (void)host, (void)addresses, (void)capacity;
  __sync_fetch_and_add(&shared->running, 1);
  set(&shared->asked);
  for (tries = 0; tries < TRIES && !value(&shared->released); tries++) sleep_ms(5);
  CHECK(value(&shared->released));
  *count = 0;
  __sync_fetch_and_sub(&shared->running, 1);
  return WG_OK;
}

static int32_t protects(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  return 0;
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  return count;
}

static void takes_event(void *user, int32_t handle, const wg_event_t *event) { (void)user, (void)handle, (void)event; }

static void takes_line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
}

static void *turns_off(void *argument) {
  struct shared *shared = argument;
  CHECK_EQ(wg_turn_off(shared->handle), WG_OK);
  return NULL;
}

static int waiters;

static void *waits_for_an_event(void *argument) {
  wg_event_t event = WG_EVENT_INIT;
  int32_t code;
  do code = wg_next_event(*(int32_t *)argument, &event, -1);
  while (code == 1);
  CHECK(code == WG_ERR_CLOSED || code == WG_ERR_UNKNOWN_HANDLE);
  __sync_fetch_and_add(&waiters, 1);
  return NULL;
}

/* While one of the functions runs, none is destroyed; and what waits for events does not wait for it. */
static void none_is_destroyed_while_another_runs(void) {
  static struct shared shared;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  pthread_t off, waiting;
  size_t taken = 77;
  int tries;
  tun.write = writes;
  options.tun = &tun;
  options.protect = protects;
  options.resolve = resolves_slowly;
  options.event = takes_event;
  options.log = takes_line;
  tun.user = options.protect_user = options.resolve_user = options.event_user = options.log_user = &shared;
  tun.destroy = options.protect_destroy = options.resolve_destroy = options.event_destroy = options.log_destroy = destroy;
  options.flags = WG_OPTIONS_QUEUE_EVENTS;
  shared.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=b.test:1\n");
  CHECK(shared.handle > 0);
  for (tries = 0; tries < TRIES && !value(&shared.asked); tries++) sleep_ms(5);
  CHECK(value(&shared.asked));
  start(&waiting, waits_for_an_event, &shared.handle);
  start(&off, turns_off, &shared);
  for (tries = 0; tries < TRIES && !value(&waiters); tries++) sleep_ms(5);
  CHECK_EQ(value(&waiters), 1);
  sleep_ms(50); /* for what it might destroy too early */
  CHECK_EQ(value(&shared.destroyed), 0);
  set(&shared.released);
  join(off);
  join(waiting);
  CHECK_EQ(shared.destroyed, 5);
  CHECK_FAILS(wg_tun_inject(shared.handle, NULL, 0, &taken), WG_ERR_UNKNOWN_HANDLE, "handle");
}

/* A callback during wg_turn_on_with() passes the handle to another thread, whose calls wait until the tunnel is on. */

static int32_t early;

static void gives_the_handle_away(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)level, (void)text;
  __sync_bool_compare_and_swap(&early, 0, handle);
}

static int32_t waits_a_moment(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  sleep_ms(30); /* so that the other thread calls by now, mostly */
  return 0;
}

static void *uses_the_early_handle(void *argument) {
  wg_stats_t stats = WG_STATS_INIT;
  int32_t handle, tries;
  for (tries = 0; tries < TRIES && (handle = __sync_fetch_and_add(&early, 0)) == 0; tries++) sleep_ms(1);
  CHECK_EQ(wg_stats(handle, &stats), WG_OK);
  CHECK_EQ(argument == NULL ? wg_turn_off(handle) : wg_turn_off_within(handle, 60000), WG_OK);
  return NULL;
}

static void a_handle_that_is_known_early_is_good(void) {
  int within, pair[2];
  for (within = 0; within < 2; within++) {
    wg_stats_t stats = WG_STATS_INIT;
    wg_options_t options = WG_OPTIONS_INIT;
    pthread_t thread;
    int32_t handle;
    early = 0;
    make_pair(SOCK_DGRAM, pair);
    options.tun_fd = pair[0];
    options.log = gives_the_handle_away;
    options.log_level = WG_LOG_TRACE;
    options.protect = waits_a_moment;
    start(&thread, uses_the_early_handle, within ? &early : NULL);
    handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
    CHECK(handle > 0);
    join(thread);
    CHECK_EQ(handle, early);
    CHECK_EQ(wg_stats(handle, &stats), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(close(pair[1]), 0);
  }
}

/* Of one that fails after that, calls that have waited do not know the handle. */
static void *finds_no_tunnel(void *argument) {
  wg_stats_t stats = WG_STATS_INIT;
  int32_t handle, tries;
  (void)argument;
  for (tries = 0; tries < TRIES && (handle = __sync_fetch_and_add(&early, 0)) == 0; tries++) sleep_ms(1);
  CHECK_EQ(wg_stats(handle, &stats), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_turn_off(handle), WG_ERR_UNKNOWN_HANDLE);
  return NULL;
}

static int32_t refuses(void *user, int32_t fd, uint32_t family) {
  gives_the_handle_away(NULL, *(int32_t *)user, 0, "");
  return waits_a_moment(user, fd, family) + 1;
}

static void a_handle_of_a_failure_is_not_known(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end last;
  pthread_t thread;
  int32_t next;
  int pair[2];
  last = turn_on(SOCK_DGRAM, "");
  next = last.handle + 1;
  turn_off(last);
  early = 0;
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.protect = refuses;
  options.protect_user = &next;
  start(&thread, finds_no_tunnel, NULL);
  CHECK_FAILS(wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n"), WG_ERR_PERMISSION, "refused");
  join(thread);
  close(pair[0]);
  close(pair[1]);
}

/* As in a daemon, whose standard descriptors are closed. */
static void the_descriptor_of_events_is_not_a_standard_one(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2], out = dup(1), err = dup(2);
  int32_t handle;
  CHECK(out > 2 && err > 2);
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.flags = WG_OPTIONS_QUEUE_EVENTS;
  close(0), close(1), close(2);
  handle = wg_turn_on_with(&options, "");
  CHECK_EQ(dup2(out, 1), 1);
  CHECK_EQ(dup2(err, 2), 2);
  CHECK(handle > 0);
  CHECK(wg_event_fd(handle) > 2);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  close(pair[1]), close(out), close(err);
}

int main(void) {
  none_is_destroyed_while_another_runs();
  a_handle_that_is_known_early_is_good();
  a_handle_of_a_failure_is_not_known();
  the_descriptor_of_events_is_not_a_standard_one();
  return 0;
}
