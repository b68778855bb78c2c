/* exit() while tunnels are on: once it has reached the atexit() functions from before the first tunnel, no callback is
 * called, and a callback that never returns does not keep the process. */
#include "check.h"

#include <sched.h>
#include <sys/wait.h>

static int over, calls, destroyed;
static int32_t tunnel;

static void called(void) {
  __sync_fetch_and_add(&calls, 1);
  if (get_int(&over)) _exit(4);
  sched_yield();
  if (get_int(&over)) _exit(5);
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  called();
  return count;
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  called();
  return count;
}

static size_t hangs(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  __sync_fetch_and_add(&calls, 1);
  for (;;) sleep_ms(1000);
  return count;
}

static size_t exits(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  exit(0);
  return count;
}

static void event(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle, (void)event;
  called();
}

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
  called();
}

static void destroy(void *user) {
  (void)user;
  __sync_fetch_and_add(&destroyed, 1);
}

static void turn_on_with(wg_transport_send_fn_t send) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  tun.write = writes;
  tun.destroy = transport.destroy = destroy;
  transport.send = send;
  options.tun = &tun;
  options.transport = &transport;
  tunnel = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B
                                     "\nendpoint=192.0.2.2:1\nallowed_ip=0.0.0.0/0\n");
  CHECK(tunnel > 0);
}

static void inject(void) {
  unsigned char bytes[20];
  wg_packet_t packet = {bytes, sizeof bytes};
  make_packet(bytes, sizeof bytes, 1, 2, 0);
  CHECK_EQ(wg_tun_inject(tunnel, &packet, 1, NULL), WG_OK);
}

/* Each round is lines of the log, handshakes that are sent, and events. */
static void *works(void *unused) {
  for (;;) {
    wg_set_config(tunnel, "replace_peers=true\npublic_key=" PUBLIC_B
                          "\nendpoint=192.0.2.2:1\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=1\n");
    wg_bump_sockets(tunnel);
    sched_yield();
  }
  return unused;
}

/* The app's: registered before it uses the library, and so it runs last. */
static void last(void) {
  int before = get_int(&calls), i;
  __sync_fetch_and_add(&over, 1);
  for (i = 0; i < 300; i++) sched_yield();
  _exit(before > 0 && get_int(&calls) == before && get_int(&destroyed) == 0 ? 0 : 3);
}

static void leaves_it_on(void) {
  pthread_t threads[2];
  int i;
  CHECK_EQ(atexit(last), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_log_callback(line, NULL, destroy), WG_OK);
  turn_on_with(sends);
  CHECK_EQ(wg_set_event_callback(tunnel, event, NULL, destroy), WG_OK);
  for (i = 0; i < 2; i++) start(&threads[i], works, NULL);
  while (get_int(&calls) < 10) sched_yield();
  exit(0);
}

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  called();
  return 0;
}

static int32_t never_finds(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  (void)user, (void)host, (void)addresses, (void)capacity, (void)count;
  __sync_fetch_and_add(&calls, 1);
  while (!get_int(&over)) sleep_ms(1);
  /* It goes on when the app's memory is gone, as it may; whatever comes of it is not told. */
  return WG_ERR_NOT_FOUND;
}

static void *turns_on_and_off(void *unused) {
  for (;;) {
    int pair[2];
    int32_t handle;
    wg_options_t options = WG_OPTIONS_INIT;
    make_pair(SOCK_DGRAM, pair);
    options.tun_fd = pair[0];
    options.protect = protect;
    handle = wg_turn_on_with(&options, "");
    if (handle > 0) wg_turn_off(handle);
    close(pair[1]);
  }
  return unused;
}

/* In another thread, so that exit() comes at any moment of it. */
static void leaves_while_it_turns_on_and_off(void) {
  pthread_t thread;
  CHECK_EQ(atexit(last), 0);
  start(&thread, turns_on_and_off, NULL);
  while (get_int(&calls) < 10) sched_yield();
  exit(0);
}

/* What has been told to end, and has not. */
static void leaves_it_ending(void) {
  int pair[2];
  wg_options_t options = WG_OPTIONS_INIT;
  CHECK_EQ(atexit(last), 0);
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.resolve = never_finds;
  options.resolve_destroy = destroy;
  tunnel = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B
                                     "\nendpoint=vpn.example.com:1\nallowed_ip=0.0.0.0/0\n");
  CHECK(tunnel > 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_event_callback(tunnel, event, NULL, destroy), WG_OK);
  CHECK_EQ(wg_set_tunnel_log_callback(tunnel, line, NULL, destroy), WG_OK);
  while (get_int(&calls) == 0) sched_yield();
  CHECK_EQ(wg_turn_off_within(tunnel, 20), WG_ERR_TIMED_OUT);
  exit(0);
}

static void hangs_in_a_callback(void) {
  turn_on_with(hangs);
  inject();
  while (get_int(&calls) == 0) sched_yield();
  exit(0);
}

static void exits_in_a_callback(void) {
  turn_on_with(exits);
  inject();
  for (;;) sleep_ms(1000);
}

static void in_a_process(void (*body)(void)) {
  int status = 0;
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(60); /* Whatever hangs, fails. */
    body();
  }
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

int main(void) {
  int i;
  for (i = 0; i < 8; i++) in_a_process(leaves_it_on);
  for (i = 0; i < 8; i++) in_a_process(leaves_while_it_turns_on_and_off);
  in_a_process(leaves_it_ending);
  in_a_process(hangs_in_a_callback);
  in_a_process(exits_in_a_callback);
  return 0;
}
