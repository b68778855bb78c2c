/* Events: what a tunnel tells of itself, to whom, and until when. */
#include "check.h"

/* A pointer that belongs to a callback. It is freed by `destroyed`, so that a sanitizer sees any later use. */
struct watcher {
  pthread_mutex_t lock;
  int count, running, slow;
  int *destroyed;
  int32_t handle;
  wg_event_t events[100];
};

static struct watcher *new_watcher(int *gone) {
  struct watcher *watcher = calloc(1, sizeof *watcher);
  CHECK(watcher != NULL);
  pthread_mutex_init(&watcher->lock, NULL);
  watcher->destroyed = gone;
  return watcher;
}

static void destroyed(void *user) {
  struct watcher *watcher = user;
  CHECK_EQ(__sync_fetch_and_add(&watcher->running, 0), 0);
  __sync_fetch_and_add(watcher->destroyed, 1);
  pthread_mutex_destroy(&watcher->lock);
  free(watcher);
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  struct watcher *watcher = user;
  /* On one thread at a time. */
  CHECK_EQ(__sync_fetch_and_add(&watcher->running, 1), 0);
  if (watcher->slow) sleep_ms(watcher->slow);
  pthread_mutex_lock(&watcher->lock);
  CHECK_EQ(event->struct_size, sizeof *event);
  watcher->handle = handle;
  watcher->events[watcher->count++ % 100] = *event;
  pthread_mutex_unlock(&watcher->lock);
  __sync_fetch_and_sub(&watcher->running, 1);
}

static int count(struct watcher *watcher) {
  int count;
  pthread_mutex_lock(&watcher->lock);
  count = watcher->count;
  pthread_mutex_unlock(&watcher->lock);
  return count;
}

static void watch(struct end end, struct watcher *watcher) {
  CHECK_EQ(wg_set_event_callback(end.handle, takes_events, watcher, destroyed), WG_OK);
}

/* Waits for event number `i`, which is of this kind. */
static wg_event_t event(struct watcher *watcher, int i, uint32_t kind) {
  int tries;
  for (tries = 0; tries < TRIES && count(watcher) <= i; tries++) sleep_ms(5);
  CHECK(count(watcher) > i);
  CHECK_EQ(watcher->events[i].kind, kind);
  return watcher->events[i];
}

static void events_tell_what_happens(void) {
  int gone = 0;
  uint8_t key_a[WG_KEY_LEN], key_b[WG_KEY_LEN], none[WG_KEY_LEN] = {0};
  char endpoint[WG_ENDPOINT_TEXT_LEN];
  wg_peer_stats_t peer;
  wg_event_t got;
  struct watcher *in_a = new_watcher(&gone), *in_b = new_watcher(&gone);
  struct end a, b;
  key_bytes(PUBLIC_A, key_a);
  key_bytes(PUBLIC_B, key_b);
  turn_on_both(SOCK_SEQPACKET, &a, &b);
  watch(a, in_a);
  watch(b, in_b);
  check_exchange(a, b);
  got = event(in_a, 0, WG_EVENT_HANDSHAKE_COMPLETED);
  CHECK_EQ(memcmp(got.public_key, key_b, WG_KEY_LEN), 0);
  CHECK_EQ(got.listen_port, 0);
  CHECK_TEXT(got.endpoint, "");
  CHECK_TEXT(got.reason, "");
  CHECK_EQ(in_a->handle, a.handle);
  got = event(in_b, 0, WG_EVENT_HANDSHAKE_COMPLETED);
  CHECK_EQ(memcmp(got.public_key, key_a, WG_KEY_LEN), 0);
  CHECK_EQ(in_b->handle, b.handle);

  /* b moves to another port, and a learns of it. */
  CHECK_EQ(wg_set_config(b.handle, "listen_port=0\n"), WG_OK);
  check_passes(b.app, a.app, 2, 1, 1);
  got = event(in_a, 1, WG_EVENT_ENDPOINT_CHANGED);
  CHECK_EQ(memcmp(got.public_key, key_b, WG_KEY_LEN), 0);
  snprintf(endpoint, sizeof endpoint, "127.0.0.1:%d", listen_port(b.handle));
  CHECK_TEXT(got.endpoint, endpoint);
  CHECK_TEXT(got.reason, "");
  peer.struct_size = sizeof peer;
  CHECK_EQ(wg_peer_stats(a.handle, key_b, &peer), WG_OK);
  CHECK_TEXT(peer.endpoint, endpoint);

  /* b's packets have nowhere to go any more. */
  close(b.app);
  got = event(in_b, 1, WG_EVENT_ENDED);
  CHECK_EQ(memcmp(got.public_key, none, WG_KEY_LEN), 0);
  CHECK_TEXT(got.endpoint, "");
  CHECK(strlen(got.reason) > 5);
  CHECK_EQ(count(in_a), 2);
  CHECK_EQ(count(in_b), 2);
  CHECK_EQ(wg_turn_off(b.handle), WG_OK);
  turn_off(a);
  CHECK_EQ(gone, 2);
}

/* The function in the options is told of everything, also of what happens before wg_turn_on_with() returns. */
static void events_begin_with_the_options(void) {
  int gone = 0, pair[2];
  wg_options_t options = WG_OPTIONS_INIT;
  struct watcher *watcher = new_watcher(&gone), *later = new_watcher(&gone);
  struct end a;
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_EQ(close(pair[1]), 0);
  options.tun_fd = pair[0];
  options.event = takes_events;
  options.event_user = watcher;
  options.event_destroy = destroyed;
  a.handle = wg_turn_on_with(&options, "");
  /* Its descriptor leads nowhere: a thread of the tunnel finds that out, as early as it may. */
  CHECK(a.handle > 0);
  event(watcher, 0, WG_EVENT_ENDED);
  CHECK_EQ(watcher->handle, a.handle);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(gone, 1);
  /* Another function can take its place. */
  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  options.event_user = new_watcher(&gone);
  a.handle = wg_turn_on_with(&options, "");
  a.app = pair[1];
  CHECK(a.handle > 0);
  watch(a, later);
  CHECK_EQ(gone, 2);
  turn_off(a);
  CHECK_EQ(gone, 3);
  options.tun_fd = -1;
  options.event_user = new_watcher(&gone);
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "descriptor -1 is not open");
  CHECK_EQ(gone, 4);
}

struct guardian {
  int refuses, asked;
};

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  struct guardian *guardian = user;
  (void)fd, (void)family;
  __sync_fetch_and_add(&guardian->asked, 1);
  return __sync_fetch_and_add(&guardian->refuses, 0);
}

static void sockets_are_lost_once_and_recovered(void) {
  int gone = 0, asked, tries, pair[2];
  struct guardian guardian = {0, 0};
  struct watcher *watcher = new_watcher(&gone);
  wg_options_t options = WG_OPTIONS_INIT;
  wg_event_t got;
  struct end a;
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.protect = protect;
  options.protect_user = &guardian;
  a.app = pair[1];
  a.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(a.handle > 0);
  watch(a, watcher);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  __sync_fetch_and_add(&guardian.refuses, 1);
  CHECK_FAILS(wg_resume(a.handle), WG_ERR_PERMISSION, "refused");
  got = event(watcher, 0, WG_EVENT_SOCKETS_LOST);
  CHECK(strstr(got.reason, "refused") != NULL);
  CHECK_TEXT(got.endpoint, "");
  CHECK_EQ(got.listen_port, 0);
  CHECK_EQ(watcher->handle, a.handle);
  /* Refused once more, which is not told again. */
  asked = __sync_fetch_and_add(&guardian.asked, 0);
  for (tries = 0; tries < TRIES && __sync_fetch_and_add(&guardian.asked, 0) == asked; tries++) sleep_ms(5);
  CHECK(__sync_fetch_and_add(&guardian.asked, 0) > asked);
  __sync_fetch_and_sub(&guardian.refuses, 1);
  got = event(watcher, 1, WG_EVENT_SOCKETS_RECOVERED);
  CHECK_EQ(got.listen_port, listen_port(a.handle));
  CHECK_TEXT(got.reason, "");
  CHECK_EQ(count(watcher), 2);
  turn_off(a);
  CHECK_EQ(gone, 1);
}

static int32_t finds_nothing(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  (void)user, (void)host, (void)addresses, (void)capacity, (void)count;
  return WG_ERR_NOT_FOUND;
}

static void a_name_without_an_address_is_told(void) {
  int gone = 0, pair[2];
  uint8_t key[WG_KEY_LEN];
  struct watcher *watcher = new_watcher(&gone);
  wg_options_t options = WG_OPTIONS_INIT;
  wg_event_t got;
  struct end a;
  key_bytes(PUBLIC_B, key);
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.resolve = finds_nothing;
  a.app = pair[1];
  a.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(a.handle > 0);
  watch(a, watcher);
  CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\nendpoint=peer.invalid:1\n"), WG_OK);
  got = event(watcher, 0, WG_EVENT_RESOLVE_FAILED);
  CHECK_EQ(memcmp(got.public_key, key, WG_KEY_LEN), 0);
  CHECK(strstr(got.reason, "peer.invalid") != NULL);
  turn_off(a);
  CHECK_EQ(gone, 1);
}

/* Whoever sets a callback is told of the end, or refused. */
static void an_end_is_not_missed(void) {
  int gone = 0, i, told = 0, refused = 0;
  wg_stats_t stats;
  for (i = 0; i < 40; i++) {
    struct end a = turn_on(SOCK_SEQPACKET, "");
    struct watcher *watcher = new_watcher(&gone);
    wg_result_t result;
    close(a.app);
    if (i % 4) sleep_ms(i % 4);
    result = wg_set_event_callback(a.handle, takes_events, watcher, destroyed);
    if (result == WG_OK) {
      event(watcher, 0, WG_EVENT_ENDED);
      told++;
    } else {
      CHECK_EQ(result, WG_ERR_CLOSED);
      CHECK(strstr(wg_last_error(), "has ended: ") != NULL);
      CHECK_EQ(gone, i + 1);
      refused++;
    }
    CHECK_EQ(wg_set_event_callback(a.handle, NULL, NULL, NULL), WG_OK);
    CHECK_EQ(gone, i + 1);
    stats.struct_size = sizeof stats;
    CHECK_EQ(wg_stats(a.handle, &stats), WG_OK);
    CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  }
  CHECK_EQ(told + refused, 40);
  CHECK(refused > 0);
}

static void each_pointer_is_destroyed_once(void) {
  int first = 0, second = 0, none = 0;
  struct watcher *kept;
  struct end a = turn_on(SOCK_DGRAM, "");
  watch(a, new_watcher(&first));
  CHECK_EQ(first, 0);
  watch(a, new_watcher(&second));
  CHECK_EQ(first, 1);
  CHECK_EQ(wg_set_event_callback(a.handle, NULL, new_watcher(&none), destroyed), WG_OK);
  CHECK_EQ(second, 1);
  CHECK_EQ(none, 1);
  CHECK_FAILS(wg_set_event_callback(-3, takes_events, new_watcher(&none), destroyed), WG_ERR_UNKNOWN_HANDLE, "-3");
  CHECK_EQ(none, 2);
  CHECK_EQ(wg_set_event_callback(-3, NULL, new_watcher(&none), destroyed), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(none, 3);
  /* Without `destroy` it stays the caller's until it is given with one. */
  kept = new_watcher(&none);
  CHECK_EQ(wg_set_event_callback(a.handle, takes_events, kept, NULL), WG_OK);
  CHECK_EQ(wg_set_event_callback(a.handle, NULL, kept, destroyed), WG_OK);
  CHECK_EQ(none, 4);
  /* Turning the tunnel off takes it away. */
  watch(a, new_watcher(&first));
  turn_off(a);
  CHECK_EQ(first, 2);
  CHECK_EQ(wg_set_event_callback(a.handle, takes_events, new_watcher(&none), destroyed), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(none, 5);
}

/* `destroyed` checks that none is running. */
static void removal_and_turning_off_wait_for_what_is_running(void) {
  int round, gone = 0;
  for (round = 0; round < 2; round++) {
    unsigned char packet[20];
    struct watcher *watcher = new_watcher(&gone);
    struct end a, b;
    watcher->slow = 200;
    turn_on_both(SOCK_DGRAM, &a, &b);
    watch(a, watcher);
    make_packet(packet, 20, 1, 2, 0);
    CHECK_EQ(send(a.app, packet, 20, 0), 20);
    while (__sync_fetch_and_add(&watcher->running, 0) == 0) sleep_ms(1);
    if (round == 0) CHECK_EQ(wg_set_event_callback(a.handle, NULL, NULL, NULL), WG_OK);
    else CHECK_EQ(wg_turn_off(a.handle), WG_OK);
    CHECK_EQ(gone, round + 1);
    if (round == 0) CHECK_EQ(wg_turn_off(a.handle), WG_OK);
    close(a.app);
    turn_off(b);
  }
}

static int stop;

/* b moves about, so that a has something to tell. */
static void *moves(void *argument) {
  struct end *ends = argument;
  unsigned char packet[20], got[20];
  make_packet(packet, 20, 2, 1, 0);
  while (!__sync_fetch_and_add(&stop, 0)) {
    struct pollfd ready = {0, POLLIN, 0};
    ready.fd = ends[0].app;
    CHECK_EQ(wg_set_config(ends[1].handle, "listen_port=0\n"), WG_OK);
    CHECK_EQ(send(ends[1].app, packet, 20, 0), 20);
    if (poll(&ready, 1, 1000) == 1) CHECK_EQ(recv(ends[0].app, got, 20, 0), 20);
  }
  return NULL;
}

static void callbacks_change_while_events_come(void) {
  int i, gone = 0, told = 0;
  pthread_t mover;
  struct end ends[2];
  turn_on_both(SOCK_DGRAM, &ends[0], &ends[1]);
  check_exchange(ends[0], ends[1]);
  start(&mover, moves, ends);
  for (i = 0; i < 200; i++) {
    struct watcher *watcher = new_watcher(&gone);
    watch(ends[0], watcher);
    if (i % 4 == 0) {
      sleep_ms(5);
      told += count(watcher) > 0;
    }
    if (i % 3 == 0) CHECK_EQ(wg_set_event_callback(ends[0].handle, NULL, NULL, NULL), WG_OK);
    CHECK_EQ(gone, i % 3 == 0 ? i + 1 : i);
  }
  CHECK(told > 0);
  __sync_fetch_and_add(&stop, 1);
  join(mover);
  turn_off(ends[0]);
  turn_off(ends[1]);
  CHECK_EQ(gone, 200);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  alarm(300); /* Whatever hangs, fails. */
  events_tell_what_happens();
  events_begin_with_the_options();
  sockets_are_lost_once_and_recovered();
  a_name_without_an_address_is_told();
  an_end_is_not_missed();
  each_pointer_is_destroyed_once();
  removal_and_turning_off_wait_for_what_is_running();
  callbacks_change_while_events_come();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
