/* Callbacks that are replaced, removed and ended on several threads at once, while they are called: when a call that
 * ends one has returned, it does not run and is destroyed. Each setter also frees memory of its own, so a sanitizer
 * finds later accesses. */
#include "check.h"

#include <sched.h>

#define SETTERS 3
#define ROUNDS 150
#define EACH 4 /* callbacks that a setter sets in a round */

/* What belongs to one callback. */
struct user {
  int running, destroyed;
};

enum kind { OF_EVENTS, OF_TUNNEL_LOG, OF_PROCESS_LOG, KINDS };

struct test {
  int32_t handle;
  enum kind kind;
  int ends_it; /* in each round the tunnel is turned off meanwhile */
  int refuse, stop, calls;
  pthread_barrier_t begin;
};

static void runs(struct user *user) {
  int i;
  __sync_fetch_and_add(&user->running, 1);
  for (i = 0; i < 8; i++) {
    CHECK_EQ(get_int(&user->destroyed), 0);
    sched_yield();
  }
  __sync_fetch_and_sub(&user->running, 1);
}

static void event(void *user, int32_t handle, const wg_event_t *event) {
  (void)handle, (void)event;
  runs(user);
}

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)handle, (void)level, (void)text;
  runs(user);
}

static void destroy(void *user) {
  CHECK_EQ(get_int(&((struct user *)user)->running), 0);
  __sync_fetch_and_add(&((struct user *)user)->destroyed, 1);
}

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  (void)fd, (void)family;
  return get_int(user);
}

static wg_result_t set(const struct test *test, struct user *user) {
  wg_destroy_fn_t gone = user == NULL ? NULL : destroy;
  switch (test->kind) {
  case OF_EVENTS: return wg_set_event_callback(test->handle, user == NULL ? NULL : event, user, gone);
  case OF_TUNNEL_LOG: return wg_set_tunnel_log_callback(test->handle, user == NULL ? NULL : line, user, gone);
  default: return wg_set_log_callback(user == NULL ? NULL : line, user, gone);
  }
}

/* Loses the sockets and finds them again, which are events and lines of the log. */
static void *makes_calls(void *argument) {
  struct test *test = argument;
  while (!get_int(&test->stop)) {
    __sync_fetch_and_xor(&test->refuse, 1);
    wg_bump_sockets(test->handle);
    __sync_fetch_and_add(&test->calls, 1);
  }
  return NULL;
}

static void round_of(struct test *test) {
  struct user *users[EACH];
  int i;
  for (i = 0; i < EACH; i++) {
    wg_result_t result;
    CHECK((users[i] = calloc(1, sizeof **users)) != NULL);
    result = set(test, users[i]);
    CHECK(result == WG_OK || (test->ends_it && result == WG_ERR_UNKNOWN_HANDLE));
    if (i > 0 && result == WG_OK) CHECK_EQ(get_int(&users[i - 1]->destroyed), 1);
    if (result != WG_OK) CHECK_EQ(get_int(&users[i]->destroyed), 1);
  }
  /* Nothing that this thread has set is used any more. A refusal means the same only when the tunnel is off. */
  if (set(test, NULL) == WG_ERR_UNKNOWN_HANDLE) CHECK_EQ(wg_turn_off(test->handle), WG_ERR_UNKNOWN_HANDLE);
  for (i = 0; i < EACH; i++) {
    CHECK_EQ(get_int(&users[i]->running), 0);
    CHECK_EQ(get_int(&users[i]->destroyed), 1);
    free(users[i]);
  }
}

static void *sets(void *argument) {
  int i;
  for (i = 0; i < ROUNDS; i++) round_of(argument);
  return NULL;
}

static int32_t turn_on_protected(struct test *test) {
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.protect = protect;
  options.protect_user = &test->refuse;
  test->refuse = 0;
  test->handle = wg_turn_on_with(&options, "");
  CHECK(test->handle > 0);
  return pair[1];
}

static void while_the_tunnel_runs(enum kind kind) {
  struct test test = {0};
  pthread_t callers[2], setters[SETTERS];
  int app, i;
  test.kind = kind;
  app = turn_on_protected(&test);
  for (i = 0; i < 2; i++) start(&callers[i], makes_calls, &test);
  while (get_int(&test.calls) == 0) sched_yield();
  for (i = 0; i < SETTERS; i++) start(&setters[i], sets, &test);
  for (i = 0; i < SETTERS; i++) join(setters[i]);
  __sync_fetch_and_add(&test.stop, 1);
  for (i = 0; i < 2; i++) join(callers[i]);
  CHECK_EQ(wg_turn_off(test.handle), WG_OK);
  close(app);
}

static void *sets_once(void *argument) {
  struct test *test = argument;
  pthread_barrier_wait(&test->begin);
  round_of(test);
  return NULL;
}

static void *calls_until_it_ends(void *argument) {
  struct test *test = argument;
  wg_result_t result = WG_OK;
  pthread_barrier_wait(&test->begin);
  while (result != WG_ERR_UNKNOWN_HANDLE) {
    __sync_fetch_and_xor(&test->refuse, 1);
    result = wg_bump_sockets(test->handle);
  }
  return NULL;
}

/* Two turn it off: one of them succeeds, and neither returns before it is off. */
static void *turns_off(void *argument) {
  struct test *test = argument;
  wg_result_t result;
  pthread_barrier_wait(&test->begin);
  result = wg_turn_off(test->handle);
  CHECK(result == WG_OK || result == WG_ERR_UNKNOWN_HANDLE);
  if (result == WG_OK) __sync_fetch_and_add(&test->calls, 1);
  return NULL;
}

static void when_it_is_turned_off(enum kind kind) {
  int n;
  for (n = 0; n < ROUNDS; n++) {
    struct test test = {0};
    pthread_t threads[SETTERS + 3];
    int app, i;
    test.kind = kind;
    test.ends_it = 1;
    app = turn_on_protected(&test);
    CHECK_EQ(pthread_barrier_init(&test.begin, NULL, SETTERS + 3), 0);
    start(&threads[0], turns_off, &test);
    start(&threads[1], turns_off, &test);
    start(&threads[2], calls_until_it_ends, &test);
    for (i = 0; i < SETTERS; i++) start(&threads[3 + i], sets_once, &test);
    for (i = 0; i < SETTERS + 3; i++) join(threads[i]);
    CHECK_EQ(test.calls, 1);
    CHECK_EQ(pthread_barrier_destroy(&test.begin), 0);
    close(app);
  }
}

/* A bind's `protect` does not run any more either when the bind is closed. */
static int32_t is_shown(void *user, int32_t fd, uint32_t family) {
  (void)fd, (void)family;
  runs(user);
  return 0;
}

static void *reopens(void *argument) {
  struct test *test = argument;
  pthread_barrier_wait(&test->begin);
  while (wg_udp_reopen(test->handle, NULL) == WG_OK) continue;
  return NULL;
}

static void when_a_bind_is_closed(void) {
  int n;
  for (n = 0; n < ROUNDS; n++) {
    struct test test = {0};
    struct user *user = calloc(1, sizeof *user);
    wg_udp_options_t options = WG_UDP_OPTIONS_INIT;
    pthread_t threads[2];
    int i;
    CHECK(user != NULL);
    options.protect = is_shown;
    options.user = user;
    options.destroy = destroy;
    test.handle = wg_udp_open(&options, NULL);
    CHECK(test.handle > 0);
    CHECK_EQ(pthread_barrier_init(&test.begin, NULL, 3), 0);
    for (i = 0; i < 2; i++) start(&threads[i], reopens, &test);
    pthread_barrier_wait(&test.begin);
    for (i = 0; i < n % 4; i++) sched_yield();
    CHECK_EQ(wg_udp_close(test.handle), WG_OK);
    CHECK(get_int(&user->running) == 0 && get_int(&user->destroyed) == 1);
    free(user);
    for (i = 0; i < 2; i++) join(threads[i]);
    CHECK_EQ(pthread_barrier_destroy(&test.begin), 0);
  }
}

int main(void) {
  enum kind kind;
  for (kind = OF_EVENTS; kind < KINDS; kind++) while_the_tunnel_runs(kind);
  when_it_is_turned_off(OF_EVENTS);
  when_it_is_turned_off(OF_TUNNEL_LOG);
  when_a_bind_is_closed();
  return 0;
}
