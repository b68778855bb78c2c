/* Look-ups that do not return: what waits for them, and what does not. This program replaces getaddrinfo(). */
#include "check.h"

#include <netdb.h>

enum { MOST_LOOKUPS = 16, TUNNELS = 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int hold, begun, destroyed, closed;

static void change(int *field, int value) {
  pthread_mutex_lock(&lock);
  *field = value;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static void wait_until_begun(int count) {
  pthread_mutex_lock(&lock);
  while (begun < count) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}

static void hang(void) {
  pthread_mutex_lock(&lock);
  begun++;
  pthread_cond_broadcast(&changed);
  while (hold) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
  (void)node, (void)service, (void)hints, (void)result;
  hang();
  return EAI_AGAIN;
}

static int32_t resolve(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  (void)user, (void)host, (void)addresses, (void)capacity, (void)count;
  hang();
  return WG_ERR_NOT_FOUND;
}

/* An app's function that falls back to the system. */
static int32_t resolve_by_system(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  int32_t code = wg_resolve_system(user, host, addresses, capacity, count);
  if (code == WG_ERR_CLOSED) change(&closed, 1);
  return code;
}

static void destroy(void *user) {
  CHECK(user == &destroyed);
  destroyed++;
}

static int32_t refuses(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  return 1;
}

/* A tunnel that looks a name up. */
static struct end turn_on_named(wg_resolve_fn_t function) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.resolve = function;
  options.resolve_user = &destroyed;
  options.resolve_destroy = destroy;
  end.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=b.example:9\n");
  CHECK(end.handle > 0);
  end.app = pair[1];
  return end;
}

static void reset(void) {
  /* A look-up that was given up may still be on its way out. */
  pthread_mutex_lock(&lock);
  begun = 0;
  hold = 1;
  pthread_mutex_unlock(&lock);
  __sync_fetch_and_and(&destroyed, 0);
  __sync_fetch_and_and(&closed, 0);
}

/* If one of these waited, it would do so for ever. */
static void nothing_waits_for_the_system(wg_resolve_fn_t function) {
  int tasks = threads(), fds = open_fds();
  struct end end;
  reset();
  end = turn_on_named(function);
  wait_until_begun(1);
  CHECK_EQ(wg_set_config(end.handle, "public_key=" PUBLIC_B "\nendpoint=c.example:9\n"), WG_OK);
  CHECK_EQ(wg_pause(end.handle), WG_OK);
  CHECK_EQ(wg_resume(end.handle), WG_OK);
  CHECK_EQ(wg_network_changed(end.handle), WG_OK);
  turn_off(end);
  CHECK_EQ(destroyed, 1);
  CHECK_EQ(open_fds(), fds);
  /* The one that the system has. */
  check_threads(tasks + 1);
  CHECK_EQ(begun, 1);
  change(&hold, 0);
  check_threads(tasks);
}

static void a_failure_does_not_wait_either(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  int tasks = threads(), pair[2], code;
  reset();
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.resolve = wg_resolve_system;
  options.resolve_user = &destroyed;
  options.resolve_destroy = destroy;
  options.protect = refuses;
  code = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=b.example:9\n");
  CHECK_EQ(code, WG_ERR_PERMISSION);
  CHECK_EQ(destroyed, 1);
  change(&hold, 0);
  check_threads(tasks);
  close(pair[0]);
  close(pair[1]);
}

static void look_ups_that_hang_are_bounded(void) {
  struct end ends[TUNNELS];
  int tasks = threads(), i;
  reset();
  for (i = 0; i < TUNNELS; i++) ends[i] = turn_on_named(wg_resolve_system);
  wait_until_begun(MOST_LOOKUPS);
  check_threads(tasks + 3 * TUNNELS + MOST_LOOKUPS);
  for (i = 0; i < TUNNELS; i++) turn_off(ends[i]);
  check_threads(tasks + MOST_LOOKUPS);
  change(&hold, 0);
  check_threads(tasks);
  CHECK_EQ(begun, MOST_LOOKUPS);
}

static void an_app_that_falls_back_to_the_system_is_told(void) {
  nothing_waits_for_the_system(resolve_by_system);
  CHECK_EQ(closed, 1);
}

static void a_time_limit_is_kept_and_the_end_comes_once(int with_limit) {
  int tasks = threads(), fds = open_fds(), i;
  struct end end;
  int32_t code;
  char *text = NULL;
  reset();
  end = turn_on_named(resolve);
  wait_until_begun(1);
  for (i = 0; i < 3; i++) {
    CHECK_FAILS(wg_turn_off_within(end.handle, (uint32_t)i), WG_ERR_TIMED_OUT, "has not ended within");
    CHECK_EQ(wg_set_config(end.handle, ""), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(wg_get_config(end.handle, &text), WG_ERR_UNKNOWN_HANDLE);
    CHECK_EQ(destroyed, 0);
  }
  /* The look-up, and the one that waits for it. The tunnel's own are gone. */
  check_threads(tasks + 2);
  change(&hold, 0);
  code = with_limit ? wg_turn_off_within(end.handle, 60000) : wg_turn_off(end.handle);
  CHECK(code == WG_ERR_UNKNOWN_HANDLE || (with_limit && code == WG_OK));
  CHECK_EQ(destroyed, 1);
  CHECK_EQ(close(end.app), 0);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  CHECK_EQ(wg_turn_off_within(end.handle, 0), WG_ERR_UNKNOWN_HANDLE);
}

static void without_delay_it_is_just_off(void) {
  struct end end = turn_on(SOCK_DGRAM, "");
  CHECK_EQ(wg_turn_off_within(end.handle, 60000), WG_OK);
  CHECK_EQ(wg_turn_off_within(end.handle, 60000), WG_ERR_UNKNOWN_HANDLE);
  close(end.app);
  CHECK_EQ(wg_turn_off_within(0, 0), WG_ERR_UNKNOWN_HANDLE);
}

int main(void) {
  nothing_waits_for_the_system(wg_resolve_system);
  a_failure_does_not_wait_either();
  look_ups_that_hang_are_bounded();
  an_app_that_falls_back_to_the_system_is_told();
  a_time_limit_is_kept_and_the_end_comes_once(1);
  a_time_limit_is_kept_and_the_end_comes_once(0);
  without_delay_it_is_just_off();
  return 0;
}
