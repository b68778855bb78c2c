/* The rule about locks: while an app holds a lock that one of its callbacks takes, it calls only functions that also
 * work inside a callback. And while `protect` is running, functions that query a tunnel do not wait. */
#include "check.h"

#include <sched.h>

static pthread_mutex_t app = PTHREAD_MUTEX_INITIALIZER;
static int waits, enabled; /* callbacks that wait for the app's lock; whether they take it at all */

static void takes_the_lock(void) {
  if (!get_int(&enabled)) return;
  __sync_fetch_and_add(&waits, 1);
  pthread_mutex_lock(&app);
  pthread_mutex_unlock(&app);
}

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
  takes_the_lock();
}

static void event(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle, (void)event;
  takes_the_lock();
}

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  takes_the_lock();
  return 0;
}

static int32_t resolve(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  (void)user, (void)host, (void)capacity;
  takes_the_lock();
  addresses[0].family = WG_IPV4;
  memcpy(addresses[0].bytes, "\300\0\2\2", 4);
  *count = 1;
  return WG_OK;
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  takes_the_lock();
  return count;
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  takes_the_lock();
  return count;
}

static void room(void *user, int32_t handle) {
  (void)user, (void)handle;
  takes_the_lock();
}

static void destroy(void *user) {
  (void)user;
  takes_the_lock();
}

enum which { LINE, PROTECT, RESOLVE, SEND, DESTROY, ALL };

static int32_t turn_on_with(enum which which, int sockets) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  tun.write = writes;
  tun.room = room;
  transport.send = sends;
  options.tun = &tun;
  if (!sockets) options.transport = &transport;
  if (which == PROTECT) options.protect = protect;
  options.resolve = resolve;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B
                                     "\nendpoint=192.0.2.2:1\nallowed_ip=0.0.0.0/0\n");
  CHECK(handle > 0);
  return handle;
}

struct work {
  int32_t handle;
  enum which which;
};

static void *causes_it(void *argument) {
  const struct work *work = argument;
  switch (work->which) {
  case LINE: wg_pause(work->handle), wg_resume(work->handle); break;
  case RESOLVE: wg_set_config(work->handle, "public_key=" PUBLIC_B "\nendpoint=vpn.example.com:1\n"); break;
  case SEND: wg_set_config(work->handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=1\n"); break;
  case DESTROY: wg_set_event_callback(work->handle, NULL, NULL, NULL); break;
  default: wg_bump_sockets(work->handle);
  }
  return NULL;
}

/* All of them, the ones about tunnels above all. */
static void what_works_anywhere(int32_t handle) {
  unsigned char bytes[20];
  wg_packet_t packets[8];
  wg_datagram_t datagram = {0};
  wg_endpoint_t peer;
  uint8_t key[WG_KEY_LEN];
  char text[WG_KEY_HEX_LEN];
  size_t i;
  make_packet(bytes, sizeof bytes, 1, 2, 0);
  for (i = 0; i < 8; i++) packets[i].data = bytes, packets[i].len = sizeof bytes;
  CHECK_EQ(wg_endpoint_parse("192.0.2.2:1", &peer), WG_OK);
  datagram.data = bytes;
  datagram.len = sizeof bytes;
  datagram.peer = &peer;
  CHECK_EQ(wg_tun_inject(handle, packets, 8, NULL), WG_OK);
  CHECK_EQ(wg_set_mtu(handle, 1300), WG_OK);
  if (wg_transport_receive(handle, &datagram, 1, NULL) != WG_OK) CHECK(strstr(wg_last_error(), "wg_transport_t") != NULL);
  CHECK_EQ(wg_keys_generate_private(key), WG_OK);
  CHECK_EQ(wg_keys_to_hex(key, text), WG_OK);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK(wg_last_error() != NULL && wg_version_number() != 0);
}

static void what_reads(int32_t handle) {
  char *text;
  wg_stats_t stats;
  wg_peer_stats_t peers[4];
  wg_counter_t counters[64];
  wg_memory_usage_t usage;
  uint8_t key[WG_KEY_LEN];
  size_t count;
  key_bytes(PUBLIC_B, key);
  stats.struct_size = sizeof stats;
  peers[0].struct_size = sizeof peers[0];
  usage.struct_size = sizeof usage;
  CHECK_EQ(wg_get_config(handle, &text), WG_OK);
  wg_free(text);
  CHECK_EQ(wg_stats(handle, &stats), WG_OK);
  CHECK_EQ(wg_counters(handle, counters, 64, &count), WG_OK);
  CHECK_EQ(wg_peer_stats(handle, key, peers), WG_OK);
  CHECK_EQ(wg_peers(handle, peers, 4, &count), WG_OK);
  CHECK_EQ(wg_memory_usage(handle, &usage), WG_OK);
  CHECK(wg_peek_socket_fd4(handle) >= 0);
}

static void one(enum which which) {
  struct work work;
  pthread_t thread;
  int before;
  work.which = which;
  work.handle = turn_on_with(which, which != SEND);
  if (which == LINE) CHECK_EQ(wg_set_tunnel_log_callback(work.handle, line, NULL, NULL), WG_OK);
  if (which == DESTROY) CHECK_EQ(wg_set_event_callback(work.handle, event, NULL, destroy), WG_OK);
  pthread_mutex_lock(&app);
  before = get_int(&waits);
  __sync_fetch_and_add(&enabled, 1);
  start(&thread, causes_it, &work);
  while (get_int(&waits) == before) sched_yield();
  what_works_anywhere(work.handle);
  if (which == PROTECT || which == RESOLVE) what_reads(work.handle);
  __sync_fetch_and_sub(&enabled, 1);
  pthread_mutex_unlock(&app);
  join(thread);
  CHECK_EQ(wg_turn_off(work.handle), WG_OK);
}

int main(void) {
  int which;
  alarm(120); /* Whatever hangs, fails. */
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  for (which = LINE; which < ALL; which++) one((enum which)which);
  return 0;
}
