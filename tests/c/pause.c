/* wg_pause() while packets pass both ways and the configuration changes: afterwards, nothing is sent or written. */
#include "check.h"

#include <sched.h>

#define ROUNDS 300

struct side {
  int32_t handle;
  struct side *other;
  int paused, running, sent, written, rooms;
};

static struct side a, b;
static int over;

static void runs(struct side *side, int *count) {
  int i;
  __sync_fetch_and_add(&side->running, 1);
  __sync_fetch_and_add(count, 1);
  for (i = 0; i < 3; i++) {
    CHECK_EQ(get_int(&side->paused), 0);
    sched_yield();
  }
  __sync_fetch_and_sub(&side->running, 1);
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  struct side *side = user;
  (void)handle, (void)packets;
  runs(side, &side->written);
  return count;
}

static void room(void *user, int32_t handle) {
  struct side *side = user;
  (void)handle;
  runs(side, &side->rooms);
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  struct side *side = user;
  size_t taken = 0;
  (void)handle;
  runs(side, &side->sent);
  wg_transport_receive(get_int(&side->other->handle), datagrams, count, &taken);
  return taken;
}

static void turn_on_side(struct side *side, struct side *other, const char *config) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  side->other = other;
  tun.write = writes;
  tun.room = room;
  transport.send = sends;
  tun.user = transport.user = side;
  options.tun = &tun;
  options.transport = &transport;
  handle = wg_turn_on_with(&options, config);
  CHECK(handle > 0);
  __sync_fetch_and_add(&side->handle, handle);
}

/* More than the queue has room for. */
static void *injects(void *argument) {
  struct side *side = argument;
  unsigned char bytes[1400];
  wg_packet_t packets[64];
  int i;
  make_packet(bytes, sizeof bytes, side == &a ? 1 : 2, side == &a ? 2 : 1, 0);
  for (i = 0; i < 64; i++) packets[i].data = bytes, packets[i].len = sizeof bytes;
  while (!get_int(&over)) {
    CHECK_EQ(wg_tun_inject(side->handle, packets, 64, NULL), WG_OK);
    sched_yield();
  }
  return NULL;
}

/* Each of them sends a keepalive. */
static void *configures(void *unused) {
  while (!get_int(&over)) {
    CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=0\n"), WG_OK);
    CHECK_EQ(wg_set_config(a.handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=25\n"), WG_OK);
  }
  return unused;
}

/* What opens sockets and sends over them does not during a pause. */
static void *bumps(void *unused) {
  while (!get_int(&over)) CHECK_EQ(wg_network_changed(a.handle), WG_OK);
  return unused;
}

int main(void) {
  pthread_t threads[4];
  int i;
  turn_on_side(&a, &b,
               "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=192.0.2.2:1\nallowed_ip=10.9.0.2/32\n");
  turn_on_side(&b, &a,
               "private_key=" PRIVATE_B "\npublic_key=" PUBLIC_A "\nendpoint=192.0.2.1:1\nallowed_ip=10.9.0.1/32\n");
  start(&threads[0], injects, &a);
  start(&threads[1], injects, &b);
  start(&threads[2], configures, NULL);
  start(&threads[3], bumps, NULL);
  for (i = 0; i < ROUNDS; i++) {
    int sent = get_int(&a.sent), written = get_int(&a.written);
    /* Not in each round, as handshakes are not made that often. */
    if (i == 0) while (get_int(&a.sent) == sent || get_int(&a.written) == written) sched_yield();
    CHECK_EQ(wg_pause(a.handle), WG_OK);
    CHECK_EQ(get_int(&a.running), 0);
    __sync_fetch_and_add(&a.paused, 1);
    CHECK_EQ(wg_pause(a.handle), WG_OK);
    sched_yield();
    __sync_fetch_and_sub(&a.paused, 1);
    CHECK_EQ(wg_resume(a.handle), WG_OK);
  }
  __sync_fetch_and_add(&over, 1);
  for (i = 0; i < 4; i++) join(threads[i]);
  CHECK(get_int(&a.sent) > 0 && get_int(&a.written) > 0 && get_int(&a.rooms) > 0);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(wg_turn_off(b.handle), WG_OK);
  return 0;
}
