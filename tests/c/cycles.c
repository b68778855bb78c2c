/*
 * On and off, three thousand times: descriptors, threads and memory are afterwards what they were, and each callback
 * was destroyed once.
 *
 *     cycles [CYCLES]
 *
 * Each cycle turns two tunnels on that know each other, with a callback of every kind; one in eight passes packets, one
 * in five does what apps do in between, and one in four turns on two more whose packets and datagrams are the app's. A
 * leak checker sees the rest: LeakSanitizer (tests/c/check.sh), valgrind (the same).
 */
#include "check.h"
#include "heap.h"

/* What was given to the library, and given up by it. */
static int given, destroyed;
static int protects_called, events_called, lines_called, resolves_called;

static void counts(void *user) { __sync_fetch_and_add((int *)user, 1); }

static int32_t protects(void *user, int32_t fd, uint32_t family) {
  (void)fd, (void)family;
  __sync_fetch_and_add(&protects_called, user == &destroyed);
  return 0;
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  (void)handle, (void)event;
  __sync_fetch_and_add(&events_called, user == &destroyed);
}

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  (void)handle, (void)level, (void)text;
  __sync_fetch_and_add(&lines_called, user == &destroyed);
}

static int32_t resolves(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  __sync_fetch_and_add(&resolves_called, user == &destroyed);
  return wg_resolve_system(NULL, strcmp(host, "b.example") == 0 ? "127.0.0.1" : host, addresses, capacity, count);
}

static struct end turn_on_with_everything(int kind, const char *uapi) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end end;
  int pair[2];
  make_pair(kind, pair);
  options.tun_fd = pair[0];
  options.protect = protects;
  options.resolve = resolves;
  options.protect_user = options.resolve_user = &destroyed;
  options.protect_destroy = options.resolve_destroy = counts;
  end.handle = wg_turn_on_with(&options, uapi);
  CHECK(end.handle > 0);
  end.app = pair[1];
  CHECK_EQ(wg_set_event_callback(end.handle, takes_events, &destroyed, counts), WG_OK);
  CHECK_EQ(wg_set_tunnel_log_callback(end.handle, takes_lines, &destroyed, counts), WG_OK);
  given += 4;
  return end;
}

/* A tunnel with packets and datagrams of the app's own. */
struct side {
  int32_t handle;
  struct side *other;
  int arrived;
};

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)handle, (void)packets;
  __sync_fetch_and_add(&((struct side *)user)->arrived, (int)count);
  return count;
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  struct side *side = user;
  size_t taken = 0;
  (void)handle;
  (void)wg_transport_receive(__sync_fetch_and_add(&side->other->handle, 0), datagrams, count, &taken);
  return taken;
}

static void gives_up(void *user) {
  (void)user;
  counts(&destroyed);
}

static int32_t turn_on_in_memory(struct side *side, struct side *other, const char *uapi) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  side->other = other;
  tun.write = writes;
  transport.send = sends;
  tun.user = transport.user = side;
  tun.destroy = transport.destroy = gives_up;
  options.tun = &tun;
  options.transport = &transport;
  handle = wg_turn_on_with(&options, uapi);
  CHECK(handle > 0);
  __sync_fetch_and_add(&side->handle, handle); /* the other side's callbacks read it */
  given += 2;
  return handle;
}

static void in_memory(int number, int waits) {
  struct side a = {0, NULL, 0}, b = {0, NULL, 0};
  unsigned char bytes[100];
  wg_packet_t packet;
  size_t taken;
  int32_t from, to;
  from = turn_on_in_memory(&a, &b, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B
                                   "\nendpoint=192.0.2.1:1\nallowed_ip=10.9.0.2/32\n");
  to = turn_on_in_memory(&b, &a, "private_key=" PRIVATE_B "\npublic_key=" PUBLIC_A
                                 "\nendpoint=192.0.2.1:1\nallowed_ip=10.9.0.1/32\n");
  make_packet(bytes, sizeof bytes, 1, 2, number);
  packet.data = bytes;
  packet.len = sizeof bytes;
  CHECK_EQ(wg_tun_inject(from, &packet, 1, &taken), WG_OK);
  CHECK_EQ(taken, 1);
  while (waits && __sync_fetch_and_add(&b.arrived, 0) == 0) sleep_ms(1);
  CHECK_EQ(wg_turn_off(from), WG_OK);
  CHECK_EQ(wg_turn_off(to), WG_OK);
}

static void what_apps_do(struct end end) {
  wg_stats_t stats;
  char *text = get(end.handle);
  stats.struct_size = sizeof stats;
  CHECK_EQ(wg_stats(end.handle, &stats), WG_OK);
  CHECK_EQ(wg_pause(end.handle), WG_OK);
  CHECK_EQ(wg_set_config(end.handle, "public_key=" PUBLIC_B "\npersistent_keepalive_interval=25\n"), WG_OK);
  CHECK_EQ(wg_resume(end.handle), WG_OK);
  CHECK_EQ(wg_network_changed(end.handle), WG_OK);
  CHECK_EQ(wg_trim(end.handle), WG_OK);
  wg_free(text);
}

static void one_cycle(int i) {
  struct end a = turn_on_with_everything(i % 2 ? SOCK_DGRAM : SOCK_SEQPACKET, "private_key=" PRIVATE_A "\n");
  struct end b = turn_on_with_everything(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  char text[256];
  add_peer(a, PUBLIC_B, listen_port(b.handle), 2);
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  if (i % 10 == 0) { /* a host name that is being looked up while the tunnel may end */
    snprintf(text, sizeof text, "public_key=%s\nendpoint=b.example:%d\n", PUBLIC_B, listen_port(b.handle));
    CHECK_EQ(wg_set_config(a.handle, text), WG_OK);
  }
  if (i % 8 == 0) check_passes(a.app, b.app, 1, 2, 3);
  if (i % 5 == 0) what_apps_do(a);
  if (i % 3 == 0) { /* packets that wait for a session when the tunnel ends */
    unsigned char packet[100];
    make_packet(packet, sizeof packet, 1, 2, i);
    CHECK_EQ(send(a.app, packet, sizeof packet, 0), (int)sizeof packet);
  }
  turn_off(a);
  turn_off(b);
  if (i % 4 == 0) in_memory(i, i % 8 == 0);
  CHECK_EQ(__sync_fetch_and_add(&destroyed, 0), given);
}

int main(int argc, char **argv) {
  int cycles = argc > 1 ? atoi(argv[1]) : 3000, warm = cycles / 10, i, fds, tasks;
  struct memory before = {0, 0}, after;
  struct timespec begin, end;
  CHECK(cycles >= 10);
  without_caches(argv);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  fds = open_fds();
  tasks = threads();
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (i = 0; i < cycles; i++) {
    alarm(60); /* Whatever hangs, fails. */
    if (i == warm) before = memory();
    one_cycle(i);
    if (i % 100 == 0) CHECK_EQ(open_fds(), fds);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  check_threads(tasks);
  CHECK_EQ(open_fds(), fds);
  after = memory();
  CHECK(protects_called >= 2 * cycles && events_called > 0 && lines_called > 0 && resolves_called > 0);
  printf("%d cycles in %.1f s; before and after: %d descriptors, %d thread; after %d cycles and at the end: "
         "%zu and %zu bytes in use, %ld and %ld KiB resident; %d callbacks given and destroyed, called %d times\n",
         cycles, (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9, fds - 3,
         tasks - 2, warm, before.in_use, after.in_use, before.resident_kib, after.resident_kib, given,
         protects_called + events_called + lines_called + resolves_called);
  return is_lost(before, after);
}
