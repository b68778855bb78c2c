/* One call of each function of the header that takes the handle of a tunnel, a bind or a manager;
 * capi/ffi/tests/c_abi/ fails if one is missing.
 *
 * With WG_EMBED_NETSTACK the library has a userspace network, with WG_EMBED_CONTROL the control calls.
 *
 * The including file defines what a call must return: REFUSED(call), and INSIDE(call) for functions that work in a
 * callback. */
#ifndef CALLS_H
#define CALLS_H

#include "check.h"

static void counts(void *user) { __sync_fetch_and_add((int *)user, 1); }

static void takes_lines(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
}

static void takes_events(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle, (void)event;
}

/* Two callbacks are given up, each of which adds one to `given_up`. Nothing else is written. */
static void call_with_handle(int32_t handle, int *given_up) {
  char *text = NULL;
  size_t count = 77, taken = 77;
  wg_stats_t stats;
  wg_peer_stats_t peer;
  wg_memory_usage_t usage;
  wg_counter_t counter;
  wg_event_t event = WG_EVENT_INIT;
  uint8_t key[WG_KEY_LEN] = {0};
  wg_peer_config_t config = WG_PEER_CONFIG_INIT;
  stats.struct_size = sizeof stats;
  peer.struct_size = sizeof peer;
  usage.struct_size = sizeof usage;
  usage.total = 77;
  REFUSED(wg_turn_off(handle));
  REFUSED(wg_turn_off_within(handle, 1000));
  REFUSED(wg_set_config(handle, "replace_peers=true\n"));
  REFUSED(wg_get_config(handle, &text));
  REFUSED(wg_get_config_public(handle, &text));
  REFUSED(wg_public_key(handle, key));
  REFUSED(wg_listen_port(handle));
  REFUSED(wg_set_peer(handle, &config));
  REFUSED(wg_remove_peer(handle, key));
  REFUSED(wg_force_handshake(handle, NULL));
  REFUSED(wg_drop_session(handle, NULL));
  REFUSED(wg_set_event_callback(handle, takes_events, given_up, counts));
  REFUSED(wg_set_event_callback(handle, NULL, NULL, NULL));
  REFUSED(wg_set_tunnel_log_callback(handle, takes_lines, given_up, counts));
  REFUSED(wg_set_tunnel_log_callback(handle, NULL, NULL, NULL));
  REFUSED(wg_event_fd(handle));
  REFUSED(wg_next_event(handle, &event, -1));
  REFUSED(wg_set_tunnel_log_level(handle, WG_LOG_INFO));
  REFUSED(wg_stats(handle, &stats));
  REFUSED(wg_counters(handle, &counter, 1, &count));
  REFUSED(wg_peer_stats(handle, key, &peer));
  REFUSED(wg_peers(handle, &peer, 1, &count));
  REFUSED(wg_memory_usage(handle, &usage));
  REFUSED(wg_trim(handle));
  REFUSED(wg_peek_socket_fd4(handle));
  REFUSED(wg_peek_socket_fd6(handle));
  REFUSED(wg_bind_socket_to_interface4(handle, 0, 1));
  REFUSED(wg_bind_socket_to_interface6(handle, 0, 1));
  REFUSED(wg_bump_sockets(handle));
  REFUSED(wg_network_changed(handle));
  REFUSED(wg_disable_roaming(handle));
  REFUSED(wg_set_fwmark(handle, 0));
  REFUSED(wg_pause(handle));
  REFUSED(wg_resume(handle));
  REFUSED(wg_set_tun_fd(handle, -1, WG_FD_TAKE, 0));
  INSIDE(wg_tun_inject(handle, NULL, 0, &taken));
  INSIDE(wg_transport_receive(handle, NULL, 0, &taken));
  INSIDE(wg_set_mtu(handle, 1280));
#ifdef WG_EMBED_NETSTACK
  {
    wg_net_intercept_t intercept = WG_NET_INTERCEPT_INIT;
    wg_endpoint_t endpoint;
    wg_address_t address;
    int32_t fd = 77;
    REFUSED(wg_net_dial(handle, "tcp", "10.9.0.2:80", -1, &fd));
    REFUSED(wg_net_listen(handle, "tcp", ":80", 0, &fd));
    REFUSED(wg_net_accept(handle, 0, -1, &fd, NULL));
    REFUSED(wg_net_local_address(handle, 0, &endpoint));
    REFUSED(wg_net_peer_address(handle, 0, &endpoint));
    REFUSED(wg_net_reset(handle, 0));
    REFUSED(wg_net_intercept(handle, &intercept, &fd));
    REFUSED(wg_net_answer(handle, 1, WG_NET_ACCEPT));
    REFUSED(wg_net_resolve(handle, "10.9.0.2", 0, -1, &address, 1, &count));
    REFUSED(wg_net_socks5(handle, NULL, NULL, NULL, 0, NULL));
    REFUSED(wg_net_http(handle, NULL, NULL, NULL, 0, NULL));
    REFUSED(wg_net_stop_proxy(handle, 1));
    REFUSED(wg_net_ping(handle, "10.9.0.2", 1, -1, NULL));
    CHECK_EQ(fd, 77);
  }
#endif
#ifdef WG_EMBED_CONTROL
  {
    uint8_t *response = NULL;
    REFUSED(wg_wireproto_call(handle, NULL, 0, &response, &count));
    CHECK(response == NULL);
  }
#endif
  CHECK(text == NULL && count == 77 && taken == 77 && usage.total == 77);
}

#ifdef WG_EMBED_CONTROL
static void call_with_manager(int32_t manager) {
  wg_manager_state_t state = WG_MANAGER_STATE_INIT;
  state.conf = "";
  REFUSED(wg_manager_update(manager, &state));
  REFUSED(wg_manager_wait(manager, -1));
  REFUSED(wg_manager_stop(manager));
}
#endif

static void call_with_bind(int32_t bind) {
  uint16_t port = 0;
  char room[64];
  wg_datagram_t datagram = {0};
  wg_send_report_t report;
  datagram.data = room;
  datagram.capacity = sizeof room;
  REFUSED(wg_udp_reopen(bind, &port));
  REFUSED(wg_udp_batch_size(bind));
  REFUSED(wg_udp_set_mark(bind, 0));
  REFUSED(wg_udp_set_interface(bind, WG_IPV4, 0, 1));
  REFUSED(wg_udp_peek_fd(bind, WG_IPV4));
  REFUSED(wg_udp_send(bind, &datagram, 1, &report));
  REFUSED(wg_udp_recv(bind, WG_IPV4, &datagram, 1, -1));
  REFUSED(wg_udp_close(bind));
}

#endif
