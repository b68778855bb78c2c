/* Events that a host asks for, by a descriptor: nothing of it is called on a thread of the library. */
#include "check.h"

#include <poll.h>

static struct end turn_on_with_queue(const char *uapi) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  options.flags = WG_OPTIONS_QUEUE_EVENTS;
  end.handle = wg_turn_on_with(&options, uapi);
  CHECK(end.handle > 0);
  end.app = pair[1];
  return end;
}

/* Whether there is something, after `timeout` milliseconds at most. */
static int is_readable(struct end end, int timeout) {
  struct pollfd wanted = {0};
  wanted.fd = wg_event_fd(end.handle);
  wanted.events = POLLIN;
  CHECK(wanted.fd > 2);
  return poll(&wanted, 1, timeout) == 1;
}

static wg_event_t event(struct end end, uint32_t kind) {
  wg_event_t event = WG_EVENT_INIT;
  CHECK(is_readable(end, 60000));
  CHECK_EQ(wg_next_event(end.handle, &event, 0), 1);
  CHECK_EQ(event.kind, kind);
  CHECK_EQ(event.struct_size, sizeof event);
  return event;
}

static void none(struct end end) {
  wg_event_t event = WG_EVENT_INIT;
  event.kind = 77;
  CHECK(!is_readable(end, 0));
  CHECK_EQ(wg_next_event(end.handle, &event, 0), 0);
  CHECK_EQ(wg_next_event(end.handle, &event, 1), 0);
  CHECK_EQ(event.kind, 77);
}

static void events_wait_in_order(void) {
  uint8_t key_b[WG_KEY_LEN];
  char endpoint[WG_ENDPOINT_TEXT_LEN];
  wg_event_t got = WG_EVENT_INIT;
  int tries;
  struct end a = turn_on_with_queue("private_key=" PRIVATE_A "\n"), b = turn_on_with_queue("private_key=" PRIVATE_B "\n");
  key_bytes(PUBLIC_B, key_b);
  none(a);
  add_peer(a, PUBLIC_B, listen_port(b.handle), 2);
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  check_exchange(a, b);
  got = event(a, WG_EVENT_HANDSHAKE_COMPLETED);
  CHECK_EQ(memcmp(got.public_key, key_b, WG_KEY_LEN), 0);
  none(a);
  /* Both wait, however late they are asked for: a thread of the tunnel ends it, and wg_bump_sockets() says when. */
  CHECK_EQ(wg_set_config(b.handle, "listen_port=0\n"), WG_OK);
  snprintf(endpoint, sizeof endpoint, "127.0.0.1:%d", listen_port(b.handle));
  check_passes(b.app, a.app, 2, 1, 1);
  close(a.app);
  for (tries = 0; tries < TRIES && wg_bump_sockets(a.handle) != WG_ERR_CLOSED; tries++) sleep_ms(5);
  got = event(a, WG_EVENT_ENDPOINT_CHANGED);
  CHECK_TEXT(got.endpoint, endpoint);
  got = event(a, WG_EVENT_ENDED);
  CHECK(strlen(got.reason) > 5);
  /* From then on there is an error, so that a loop comes to know. */
  CHECK(is_readable(a, 0));
  CHECK_FAILS(wg_next_event(a.handle, &got, -1), WG_ERR_CLOSED, "no more events");
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  turn_off(b);
}

static void nonsense_is_refused(void) {
  struct {
    wg_event_t event;
    char newer[8];
  } larger;
  wg_event_t got = WG_EVENT_INIT;
  struct end without = turn_on(SOCK_DGRAM, ""), with = turn_on_with_queue("");
  CHECK_FAILS(wg_event_fd(without.handle), WG_ERR_UNSUPPORTED, "WG_OPTIONS_QUEUE_EVENTS");
  CHECK_FAILS(wg_next_event(without.handle, &got, -1), WG_ERR_UNSUPPORTED, "WG_OPTIONS_QUEUE_EVENTS");
  CHECK_FAILS(wg_event_fd(77), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_next_event(with.handle, NULL, 0), WG_ERR_NULL, "event is NULL");
  got.struct_size = 16;
  CHECK_FAILS(wg_next_event(with.handle, &got, 0), WG_ERR_INVALID, "struct_size");
  /* Of a newer caller. */
  memset(&larger, 7, sizeof larger);
  larger.event.struct_size = sizeof larger;
  close(with.app);
  CHECK_EQ(wg_next_event(with.handle, &larger.event, 60000), 1);
  CHECK_EQ(larger.event.kind, WG_EVENT_ENDED);
  CHECK_EQ(larger.event.struct_size, sizeof larger);
  CHECK_EQ(larger.newer[0] + larger.newer[7], 0);
  CHECK_EQ(wg_turn_off(with.handle), WG_OK);
  turn_off(without);
}

static void *waits_for_ever(void *argument) {
  wg_event_t got = WG_EVENT_INIT;
  int32_t code = wg_next_event(*(int32_t *)argument, &got, -1);
  CHECK(code == WG_ERR_CLOSED || code == WG_ERR_UNKNOWN_HANDLE);
  return NULL;
}

static void turning_off_ends_waits(void) {
  pthread_t threads[3];
  struct end a = turn_on_with_queue("");
  int i;
  for (i = 0; i < 3; i++) start(&threads[i], waits_for_ever, &a.handle);
  sleep_ms(20); /* so that some wait by now, mostly */
  turn_off(a);
  for (i = 0; i < 3; i++) join(threads[i]);
}

int main(void) {
  events_wait_in_order();
  nonsense_is_refused();
  turning_off_ends_waits();
  return 0;
}
