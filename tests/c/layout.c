/* What must never change, on platforms with 64-bit pointers: compiled as C11, for its assertions. */
#include "wg_embed.h"

#include <stdio.h>
#include <string.h>

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(wg_options_t) == 184, "wg_options_t");
_Static_assert(_Alignof(wg_options_t) == 8, "wg_options_t");
_Static_assert(offsetof(wg_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_options_t, tun_fd) == 8, "tun_fd");
_Static_assert(offsetof(wg_options_t, fd_ownership) == 12, "fd_ownership");
_Static_assert(offsetof(wg_options_t, mtu) == 16, "mtu");
_Static_assert(offsetof(wg_options_t, max_peers) == 20, "max_peers");
_Static_assert(offsetof(wg_options_t, memory_limit) == 24, "memory_limit");
_Static_assert(offsetof(wg_options_t, protect) == 32, "protect");
_Static_assert(offsetof(wg_options_t, protect_user) == 40, "protect_user");
_Static_assert(offsetof(wg_options_t, protect_destroy) == 48, "protect_destroy");
_Static_assert(offsetof(wg_options_t, resolve) == 56, "resolve");
_Static_assert(offsetof(wg_options_t, resolve_user) == 64, "resolve_user");
_Static_assert(offsetof(wg_options_t, resolve_destroy) == 72, "resolve_destroy");
_Static_assert(offsetof(wg_options_t, tun) == 80, "tun");
_Static_assert(offsetof(wg_options_t, transport) == 88, "transport");
_Static_assert(offsetof(wg_options_t, event) == 96, "event");
_Static_assert(offsetof(wg_options_t, event_user) == 104, "event_user");
_Static_assert(offsetof(wg_options_t, event_destroy) == 112, "event_destroy");
_Static_assert(offsetof(wg_options_t, log) == 120, "log");
_Static_assert(offsetof(wg_options_t, log_user) == 128, "log_user");
_Static_assert(offsetof(wg_options_t, log_destroy) == 136, "log_destroy");
_Static_assert(offsetof(wg_options_t, log_level) == 144, "log_level");
_Static_assert(offsetof(wg_options_t, flags) == 148, "flags");
_Static_assert(offsetof(wg_options_t, net) == 152, "net");
_Static_assert(offsetof(wg_options_t, interface_name) == 160, "interface_name");
_Static_assert(offsetof(wg_options_t, workers) == 168, "workers");
_Static_assert(offsetof(wg_options_t, queues) == 172, "queues");
_Static_assert(offsetof(wg_options_t, queue_fds) == 176, "queue_fds");

_Static_assert(sizeof(wg_net_options_t) == 48 && _Alignof(wg_net_options_t) == 8, "wg_net_options_t");
_Static_assert(offsetof(wg_net_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_net_options_t, settings) == 8, "settings");
_Static_assert(offsetof(wg_net_options_t, addresses) == 16, "addresses");
_Static_assert(offsetof(wg_net_options_t, dns) == 24, "dns");
_Static_assert(offsetof(wg_net_options_t, memory_limit) == 32, "memory_limit");
_Static_assert(offsetof(wg_net_options_t, max_connections) == 40, "max_connections");
_Static_assert(offsetof(wg_net_options_t, flags) == 44, "flags");

_Static_assert(sizeof(wg_net_intercept_t) == 64 && _Alignof(wg_net_intercept_t) == 8, "wg_net_intercept_t");
_Static_assert(offsetof(wg_net_intercept_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_net_intercept_t, dialled) == 8, "dialled");
_Static_assert(offsetof(wg_net_intercept_t, connected) == 16, "connected");
_Static_assert(offsetof(wg_net_intercept_t, user) == 24, "user");
_Static_assert(offsetof(wg_net_intercept_t, destroy) == 32, "destroy");
_Static_assert(offsetof(wg_net_intercept_t, udp_idle_ms) == 40, "udp_idle_ms");
_Static_assert(offsetof(wg_net_intercept_t, max_flows) == 44, "max_flows");
_Static_assert(offsetof(wg_net_intercept_t, hold_ms) == 48, "hold_ms");
_Static_assert(offsetof(wg_net_intercept_t, backlog) == 52, "backlog");
_Static_assert(offsetof(wg_net_intercept_t, flags) == 56, "flags");
_Static_assert(offsetof(wg_net_intercept_t, reserved) == 60, "reserved");

_Static_assert(sizeof(wg_event_t) == 304 && _Alignof(wg_event_t) == 8, "wg_event_t");
_Static_assert(offsetof(wg_event_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_event_t, kind) == 8, "kind");
_Static_assert(offsetof(wg_event_t, listen_port) == 12, "listen_port");
_Static_assert(offsetof(wg_event_t, public_key) == 16, "public_key");
_Static_assert(offsetof(wg_event_t, endpoint) == 48, "endpoint");
_Static_assert(offsetof(wg_event_t, reason) == 112, "reason");

_Static_assert(sizeof(wg_stats_t) == 64 && _Alignof(wg_stats_t) == 8, "wg_stats_t");
_Static_assert(offsetof(wg_stats_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_stats_t, peers) == 8, "peers");
_Static_assert(offsetof(wg_stats_t, rx_bytes) == 16, "rx_bytes");
_Static_assert(offsetof(wg_stats_t, tx_bytes) == 24, "tx_bytes");
_Static_assert(offsetof(wg_stats_t, rx_packets) == 32, "rx_packets");
_Static_assert(offsetof(wg_stats_t, tx_packets) == 40, "tx_packets");
_Static_assert(offsetof(wg_stats_t, rx_dropped) == 48, "rx_dropped");
_Static_assert(offsetof(wg_stats_t, tx_dropped) == 56, "tx_dropped");

_Static_assert(sizeof(wg_peer_stats_t) == 152 && _Alignof(wg_peer_stats_t) == 8, "wg_peer_stats_t");
_Static_assert(offsetof(wg_peer_stats_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_peer_stats_t, staged_packets) == 8, "staged_packets");
_Static_assert(offsetof(wg_peer_stats_t, rx_bytes) == 16, "rx_bytes");
_Static_assert(offsetof(wg_peer_stats_t, tx_bytes) == 24, "tx_bytes");
_Static_assert(offsetof(wg_peer_stats_t, last_handshake_sec) == 32, "last_handshake_sec");
_Static_assert(offsetof(wg_peer_stats_t, last_handshake_nsec) == 40, "last_handshake_nsec");
_Static_assert(offsetof(wg_peer_stats_t, persistent_keepalive) == 44, "persistent_keepalive");
_Static_assert(offsetof(wg_peer_stats_t, has_session) == 48, "has_session");
_Static_assert(offsetof(wg_peer_stats_t, next_timer_ms) == 52, "next_timer_ms");
_Static_assert(offsetof(wg_peer_stats_t, public_key) == 56, "public_key");
_Static_assert(offsetof(wg_peer_stats_t, endpoint) == 88, "endpoint");

_Static_assert(sizeof(wg_memory_usage_t) == 56 && _Alignof(wg_memory_usage_t) == 8, "wg_memory_usage_t");
_Static_assert(offsetof(wg_memory_usage_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_memory_usage_t, limit) == 8, "limit");
_Static_assert(offsetof(wg_memory_usage_t, total) == 16, "total");
_Static_assert(offsetof(wg_memory_usage_t, buffers) == 24, "buffers");
_Static_assert(offsetof(wg_memory_usage_t, staged) == 32, "staged");
_Static_assert(offsetof(wg_memory_usage_t, peers) == 40, "peers");
_Static_assert(offsetof(wg_memory_usage_t, network) == 48, "network");

_Static_assert(sizeof(wg_peer_config_t) == 104 && _Alignof(wg_peer_config_t) == 8, "wg_peer_config_t");
_Static_assert(offsetof(wg_peer_config_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_peer_config_t, flags) == 8, "flags");
_Static_assert(offsetof(wg_peer_config_t, persistent_keepalive) == 12, "persistent_keepalive");
_Static_assert(offsetof(wg_peer_config_t, public_key) == 16, "public_key");
_Static_assert(offsetof(wg_peer_config_t, preshared_key) == 48, "preshared_key");
_Static_assert(offsetof(wg_peer_config_t, endpoint) == 80, "endpoint");
_Static_assert(offsetof(wg_peer_config_t, allowed_ips) == 88, "allowed_ips");
_Static_assert(offsetof(wg_peer_config_t, allowed_ip_count) == 96, "allowed_ip_count");

_Static_assert(sizeof(wg_udp_options_t) == 40, "wg_udp_options_t");
_Static_assert(_Alignof(wg_udp_options_t) == 8, "wg_udp_options_t");
_Static_assert(offsetof(wg_udp_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_udp_options_t, protect) == 8, "protect");
_Static_assert(offsetof(wg_udp_options_t, user) == 16, "user");
_Static_assert(offsetof(wg_udp_options_t, destroy) == 24, "destroy");
_Static_assert(offsetof(wg_udp_options_t, mark) == 32, "mark");
_Static_assert(offsetof(wg_udp_options_t, flags) == 36, "flags");

_Static_assert(sizeof(wg_datagram_t) == 48, "wg_datagram_t");
_Static_assert(_Alignof(wg_datagram_t) == 8, "wg_datagram_t");
_Static_assert(offsetof(wg_datagram_t, data) == 0, "data");
_Static_assert(offsetof(wg_datagram_t, capacity) == 8, "capacity");
_Static_assert(offsetof(wg_datagram_t, len) == 16, "len");
_Static_assert(offsetof(wg_datagram_t, peer) == 24, "peer");
_Static_assert(offsetof(wg_datagram_t, full_len) == 32, "full_len");
_Static_assert(offsetof(wg_datagram_t, segment_size) == 36, "segment_size");
_Static_assert(offsetof(wg_datagram_t, tos) == 40, "tos");
_Static_assert(offsetof(wg_datagram_t, flags) == 44, "flags");

_Static_assert(sizeof(wg_tun_callbacks_t) == 40 && _Alignof(wg_tun_callbacks_t) == 8, "wg_tun_callbacks_t");
_Static_assert(offsetof(wg_tun_callbacks_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_tun_callbacks_t, write) == 8, "write");
_Static_assert(offsetof(wg_tun_callbacks_t, room) == 16, "room");
_Static_assert(offsetof(wg_tun_callbacks_t, user) == 24, "user");
_Static_assert(offsetof(wg_tun_callbacks_t, destroy) == 32, "destroy");
_Static_assert(sizeof(wg_transport_t) == 32 && _Alignof(wg_transport_t) == 8, "wg_transport_t");
_Static_assert(offsetof(wg_transport_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_transport_t, send) == 8, "send");
_Static_assert(offsetof(wg_transport_t, user) == 16, "user");
_Static_assert(offsetof(wg_transport_t, destroy) == 24, "destroy");
_Static_assert(sizeof(wg_packet_t) == 16 && _Alignof(wg_packet_t) == 8, "wg_packet_t");
_Static_assert(offsetof(wg_packet_t, data) == 0, "data");
_Static_assert(offsetof(wg_packet_t, len) == 8, "len");
#endif

/* The same on every platform. */
_Static_assert(sizeof(wg_endpoint_t) == 44 && _Alignof(wg_endpoint_t) == 4, "wg_endpoint_t");
_Static_assert(offsetof(wg_endpoint_t, family) == 0, "family");
_Static_assert(offsetof(wg_endpoint_t, port) == 2, "port");
_Static_assert(offsetof(wg_endpoint_t, scope_id) == 4, "scope_id");
_Static_assert(offsetof(wg_endpoint_t, address) == 8, "address");
_Static_assert(offsetof(wg_endpoint_t, source) == 24, "source");
_Static_assert(offsetof(wg_endpoint_t, source_interface) == 40, "source_interface");

_Static_assert(sizeof(wg_send_report_t) == 16 && _Alignof(wg_send_report_t) == 4, "wg_send_report_t");
_Static_assert(offsetof(wg_send_report_t, sent) == 0, "sent");
_Static_assert(offsetof(wg_send_report_t, dropped) == 4, "dropped");
_Static_assert(offsetof(wg_send_report_t, os_error) == 8, "os_error");
_Static_assert(offsetof(wg_send_report_t, gso_disabled) == 12, "gso_disabled");

_Static_assert(sizeof(wg_net_connection_t) == 104, "wg_net_connection_t");
_Static_assert(offsetof(wg_net_connection_t, id) == 0, "id");
_Static_assert(offsetof(wg_net_connection_t, protocol) == 8, "protocol");
_Static_assert(offsetof(wg_net_connection_t, flags) == 12, "flags");
_Static_assert(offsetof(wg_net_connection_t, local) == 16, "local");
_Static_assert(offsetof(wg_net_connection_t, peer) == 60, "peer");

_Static_assert(sizeof(wg_address_t) == 20 && _Alignof(wg_address_t) == 4, "wg_address_t");
_Static_assert(offsetof(wg_address_t, family) == 0, "family");
_Static_assert(offsetof(wg_address_t, bytes) == 4, "bytes");

_Static_assert(sizeof(wg_allowed_ip_t) == 28 && _Alignof(wg_allowed_ip_t) == 4, "wg_allowed_ip_t");
_Static_assert(offsetof(wg_allowed_ip_t, family) == 0, "family");
_Static_assert(offsetof(wg_allowed_ip_t, prefix_len) == 4, "prefix_len");
_Static_assert(offsetof(wg_allowed_ip_t, address) == 8, "address");
_Static_assert(offsetof(wg_allowed_ip_t, flags) == 24, "flags");

_Static_assert(sizeof(wg_counter_t) == 48 && offsetof(wg_counter_t, name) == 0, "wg_counter_t");
_Static_assert(offsetof(wg_counter_t, value) == 40, "value");

_Static_assert(sizeof(wg_result_t) == 4 && sizeof(enum wg_result_t) == 4, "wg_result_t");
_Static_assert(sizeof(wg_log_level_t) == 4 && sizeof(wg_fd_ownership_t) == 4, "enums");
_Static_assert(sizeof(wg_family_t) == 4 && sizeof(wg_udp_flags_t) == 4 && sizeof(wg_datagram_flags_t) == 4, "enums");
_Static_assert(sizeof(wg_peer_flags_t) == 4 && sizeof(wg_allowed_ip_flags_t) == 4, "enums");
_Static_assert(sizeof(wg_event_kind_t) == 4, "wg_event_kind_t");
_Static_assert(sizeof(wg_net_protocol_t) == 4 && sizeof(wg_net_answer_t) == 4, "enums");
_Static_assert(sizeof(wg_net_proxy_flags_t) == 4, "enums");

#define FIXED(name, value) _Static_assert(name == (value), #name)
FIXED(WG_OK, 0);
FIXED(WG_ERR_NULL, -1);
FIXED(WG_ERR_INVALID, -2);
FIXED(WG_ERR_PROTOCOL, -3);
FIXED(WG_ERR_UNSUPPORTED, -4);
FIXED(WG_ERR_TOO_LARGE, -5);
FIXED(WG_ERR_UNKNOWN_HANDLE, -10);
FIXED(WG_ERR_CLOSED, -11);
FIXED(WG_ERR_BUSY, -12);
FIXED(WG_ERR_IO, -20);
FIXED(WG_ERR_PERMISSION, -21);
FIXED(WG_ERR_ADDR_IN_USE, -22);
FIXED(WG_ERR_NOT_FOUND, -23);
FIXED(WG_ERR_EXISTS, -24);
FIXED(WG_ERR_REFUSED, -25);
FIXED(WG_ERR_UNREACHABLE, -26);
FIXED(WG_ERR_RESOURCES, -30);
FIXED(WG_ERR_PANIC, -40);
FIXED(WG_KEY_LEN, 32);
FIXED(WG_KEY_HEX_LEN, 65);
FIXED(WG_KEY_BASE64_LEN, 45);
FIXED(WG_FD_TAKE, 1);
FIXED(WG_FD_DUP, 2);
FIXED(WG_BATCH_SIZE, 128);
FIXED(WG_ENDPOINT_TEXT_LEN, 64);
FIXED(WG_IPV4, 4);
FIXED(WG_IPV6, 6);
FIXED(WG_UDP_NO_OFFLOAD, 1);
FIXED(WG_UDP_ANY_INTERFACE, 2);
FIXED(WG_DATAGRAM_DROPPED, 1);
FIXED(WG_DATAGRAM_SOURCE_CLEARED, 2);
FIXED(WG_DATAGRAM_TRUNCATED, 4);
FIXED(WG_PEER_UPDATE_ONLY, 1);
FIXED(WG_PEER_REPLACE_ALLOWED_IPS, 2);
FIXED(WG_PEER_HAS_PRESHARED_KEY, 4);
FIXED(WG_PEER_HAS_KEEPALIVE, 8);
FIXED(WG_ALLOWED_IP_REMOVE, 1);
FIXED(WG_ALLOWED_IPS_MAX, 1048576);
FIXED(WG_REASON_LEN, 192);
FIXED(WG_COUNTER_NAME_LEN, 40);
FIXED(WG_EVENT_HANDSHAKE_COMPLETED, 1);
FIXED(WG_EVENT_HANDSHAKE_FAILED, 2);
FIXED(WG_EVENT_SESSION_EXPIRED, 3);
FIXED(WG_EVENT_ENDPOINT_CHANGED, 4);
FIXED(WG_EVENT_ROUTING_LOOP, 6);
FIXED(WG_EVENT_RESOLVE_FAILED, 5);
FIXED(WG_EVENT_SOCKETS_LOST, 10);
FIXED(WG_EVENT_SOCKETS_RECOVERED, 11);
FIXED(WG_EVENT_ENDED, 20);
FIXED(WG_NET_TCP, 6);
FIXED(WG_NET_UDP, 17);
FIXED(WG_NET_REFUSE, 0);
FIXED(WG_NET_ACCEPT, 1);
FIXED(WG_NET_IGNORE, 2);
FIXED(WG_NET_HOLD, 3);
FIXED(WG_NET_NO_ECHO, 1);
FIXED(WG_LOG_OFF, 0);
FIXED(WG_LOG_ERROR, 1);
FIXED(WG_LOG_WARN, 2);
FIXED(WG_LOG_INFO, 3);
FIXED(WG_LOG_DEBUG, 4);
FIXED(WG_LOG_TRACE, 5);
FIXED(WG_IPV4, 4);
FIXED(WG_IPV6, 6);

/* Each function has exactly this type; the compiler says so if not. */
static int32_t (*const turn_on)(int32_t, const char *) = wg_turn_on;
static int32_t (*const turn_on_with)(const wg_options_t *, const char *) = wg_turn_on_with;
static wg_result_t (*const turn_off)(int32_t) = wg_turn_off;
static wg_result_t (*const set_config)(int32_t, const char *) = wg_set_config;
static wg_result_t (*const get_config)(int32_t, char **) = wg_get_config;
static wg_result_t (*const get_config_public)(int32_t, char **) = wg_get_config_public;
static wg_result_t (*const public_key_of)(int32_t, uint8_t *) = wg_public_key;
static int32_t (*const listen_port)(int32_t) = wg_listen_port;
static wg_result_t (*const set_peer)(int32_t, const wg_peer_config_t *) = wg_set_peer;
static wg_result_t (*const remove_peer)(int32_t, const uint8_t *) = wg_remove_peer;
static wg_result_t (*const force_handshake)(int32_t, const uint8_t *) = wg_force_handshake;
static wg_result_t (*const drop_session)(int32_t, const uint8_t *) = wg_drop_session;
static int32_t (*const peek_socket_fd4)(int32_t) = wg_peek_socket_fd4;
static int32_t (*const peek_socket_fd6)(int32_t) = wg_peek_socket_fd6;
static wg_result_t (*const bind_to_interface4)(int32_t, uint32_t, int32_t) = wg_bind_socket_to_interface4;
static wg_result_t (*const bind_to_interface6)(int32_t, uint32_t, int32_t) = wg_bind_socket_to_interface6;
static wg_result_t (*const bump_sockets)(int32_t) = wg_bump_sockets;
static wg_result_t (*const disable_roaming)(int32_t) = wg_disable_roaming;
static wg_result_t (*const set_fwmark)(int32_t, uint32_t) = wg_set_fwmark;
static wg_result_t (*const pause_tunnel)(int32_t) = wg_pause;
static wg_result_t (*const resume_tunnel)(int32_t) = wg_resume;
static wg_result_t (*const set_tun_fd)(int32_t, int32_t, uint32_t, uint32_t) = wg_set_tun_fd;
static void (*const free_memory)(void *) = wg_free;
static const char *(*const last_error)(void) = wg_last_error;
static wg_resolve_fn_t const resolve_system = wg_resolve_system;
static wg_result_t (*const network_changed)(int32_t) = wg_network_changed;
static wg_result_t (*const keys_generate_private)(uint8_t *) = wg_keys_generate_private;
static wg_result_t (*const keys_derive_public)(const uint8_t *, uint8_t *) = wg_keys_derive_public;
static wg_result_t (*const keys_generate_preshared)(uint8_t *) = wg_keys_generate_preshared;
static wg_result_t (*const keys_to_hex)(const uint8_t *, char *) = wg_keys_to_hex;
static wg_result_t (*const keys_to_base64)(const uint8_t *, char *) = wg_keys_to_base64;
static wg_result_t (*const keys_from_hex)(const char *, uint8_t *) = wg_keys_from_hex;
static wg_result_t (*const keys_from_base64)(const char *, uint8_t *) = wg_keys_from_base64;
static wg_result_t (*const set_log_callback)(void (*)(void *, int32_t, int32_t, const char *), void *,
                                             void (*)(void *)) = wg_set_log_callback;
static wg_result_t (*const set_tunnel_log_callback)(int32_t, void (*)(void *, int32_t, int32_t, const char *), void *,
                                                    void (*)(void *)) = wg_set_tunnel_log_callback;
static wg_result_t (*const set_log_level)(int32_t) = wg_set_log_level;
static wg_result_t (*const set_tunnel_log_level)(int32_t, int32_t) = wg_set_tunnel_log_level;
static wg_result_t (*const set_event_callback)(int32_t, void (*)(void *, int32_t, const wg_event_t *), void *,
                                               void (*)(void *)) = wg_set_event_callback;
static int32_t (*const event_fd)(int32_t) = wg_event_fd;
static int32_t (*const next_event)(int32_t, wg_event_t *, int32_t) = wg_next_event;
static const char *(*const result_text)(int32_t) = wg_result_text;
static wg_result_t (*const conf_parse)(const char *, size_t, char **, char **) = wg_conf_parse;
static wg_result_t (*const conf_changes)(const char *, size_t, const char *, size_t, char **) = wg_conf_changes;
static wg_result_t (*const stats)(int32_t, wg_stats_t *) = wg_stats;
static wg_result_t (*const counters)(int32_t, wg_counter_t *, size_t, size_t *) = wg_counters;
static wg_result_t (*const peer_stats)(int32_t, const uint8_t *, wg_peer_stats_t *) = wg_peer_stats;
static wg_result_t (*const peers)(int32_t, wg_peer_stats_t *, size_t, size_t *) = wg_peers;
static wg_result_t (*const memory_usage)(int32_t, wg_memory_usage_t *) = wg_memory_usage;
static wg_result_t (*const trim)(int32_t) = wg_trim;
static int32_t (*const udp_open)(const wg_udp_options_t *, uint16_t *) = wg_udp_open;
static int32_t (*const udp_adopt)(int32_t, uint32_t, const wg_udp_options_t *, uint16_t *) = wg_udp_adopt;
static wg_result_t (*const udp_reopen)(int32_t, uint16_t *) = wg_udp_reopen;
static wg_result_t (*const udp_close)(int32_t) = wg_udp_close;
static int32_t (*const udp_batch_size)(int32_t) = wg_udp_batch_size;
static wg_result_t (*const udp_set_mark)(int32_t, uint32_t) = wg_udp_set_mark;
static wg_result_t (*const udp_set_interface)(int32_t, uint32_t, uint32_t, int32_t) = wg_udp_set_interface;
static int32_t (*const udp_peek_fd)(int32_t, uint32_t) = wg_udp_peek_fd;
static int32_t (*const udp_send)(int32_t, wg_datagram_t *, size_t, wg_send_report_t *) = wg_udp_send;
static int32_t (*const udp_recv)(int32_t, uint32_t, wg_datagram_t *, size_t, int32_t) = wg_udp_recv;
static int32_t (*const protect_type)(void *, int32_t, uint32_t) = (wg_protect_fn_t)0;
static wg_result_t (*const endpoint_parse)(const char *, wg_endpoint_t *) = wg_endpoint_parse;
static wg_result_t (*const endpoint_format)(const wg_endpoint_t *, char *) = wg_endpoint_format;
static wg_result_t (*const endpoint_format_source)(const wg_endpoint_t *, char *) = wg_endpoint_format_source;
static wg_result_t (*const endpoint_from_sockaddr)(const void *, size_t, wg_endpoint_t *) = wg_endpoint_from_sockaddr;
static wg_result_t (*const endpoint_to_sockaddr)(const wg_endpoint_t *, void *, size_t *) = wg_endpoint_to_sockaddr;
static wg_result_t (*const endpoint_clear_source)(wg_endpoint_t *) = wg_endpoint_clear_source;
static wg_result_t (*const tun_inject)(int32_t, const wg_packet_t *, size_t, size_t *) = wg_tun_inject;
static wg_result_t (*const set_mtu)(int32_t, uint32_t) = wg_set_mtu;
static wg_result_t (*const transport_receive)(int32_t, const wg_datagram_t *, size_t, size_t *) = wg_transport_receive;
static const char *(*const version_string)(void) = wg_version_string;
static uint32_t (*const version_number)(void) = wg_version_number;
/* Only libraries with a userspace network have these. */
#ifdef WG_EMBED_NETSTACK
static wg_result_t (*const net_dial)(int32_t, const char *, const char *, int32_t, int32_t *) = wg_net_dial;
static wg_result_t (*const net_listen)(int32_t, const char *, const char *, uint32_t, int32_t *) = wg_net_listen;
static wg_result_t (*const net_accept)(int32_t, int32_t, int32_t, int32_t *, wg_net_connection_t *) = wg_net_accept;
static wg_result_t (*const net_local_address)(int32_t, int32_t, wg_endpoint_t *) = wg_net_local_address;
static wg_result_t (*const net_peer_address)(int32_t, int32_t, wg_endpoint_t *) = wg_net_peer_address;
static wg_result_t (*const net_intercept)(int32_t, const wg_net_intercept_t *, int32_t *) = wg_net_intercept;
static wg_result_t (*const net_reset)(int32_t, int32_t) = wg_net_reset;
static wg_result_t (*const net_answer)(int32_t, uint64_t, uint32_t) = wg_net_answer;
static wg_result_t (*const net_resolve)(int32_t, const char *, uint32_t, int32_t, wg_address_t *, size_t, size_t *) =
    wg_net_resolve;
static int32_t (*const net_socks5)(int32_t, const char *, const char *, const char *, uint32_t, char *) = wg_net_socks5;
static int32_t (*const net_http)(int32_t, const char *, const char *, const char *, uint32_t, char *) = wg_net_http;
static wg_result_t (*const net_stop_proxy)(int32_t, int32_t) = wg_net_stop_proxy;
static wg_result_t (*const net_ping)(int32_t, const char *, size_t, int32_t, uint64_t *) = wg_net_ping;
#endif
/* Only libraries with control calls have these. */
#ifdef WG_EMBED_CONTROL
static wg_result_t (*const wireproto_call)(int32_t, const uint8_t *, size_t, uint8_t **, size_t *) = wg_wireproto_call;
static int32_t (*const open_tunnel)(int32_t, int32_t) = OpenTunnel;
static int32_t (*const manager_serve)(int32_t, int32_t, const wg_manager_options_t *) = wg_manager_serve;
static wg_result_t (*const manager_update)(int32_t, const wg_manager_state_t *) = wg_manager_update;
static wg_result_t (*const manager_wait)(int32_t, int32_t) = wg_manager_wait;
static wg_result_t (*const manager_stop)(int32_t) = wg_manager_stop;
#endif
/* And each function of the app. */
static uint32_t (*const net_dialled)(void *, int32_t, const wg_net_connection_t *) = (wg_net_dialled_fn_t)0;
static void (*const net_connected)(void *, int32_t, const wg_net_connection_t *, int32_t) = (wg_net_connected_fn_t)0;
static size_t (*const tun_write)(void *, int32_t, const wg_packet_t *, size_t) = (wg_tun_write_fn_t)0;
static void (*const tun_room)(void *, int32_t) = (wg_tun_room_fn_t)0;
static int32_t (*const manager_start)(void *, int32_t, const wg_manager_request_t *, char *, size_t) =
    (wg_manager_start_fn_t)0;
static int32_t (*const manager_configure)(void *, int32_t, const char *, const char *, char *, size_t) =
    (wg_manager_configure_fn_t)0;
static size_t (*const transport_send)(void *, int32_t, const wg_datagram_t *, size_t) =
    (wg_transport_send_fn_t)0;

int main(void) {
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", WG_VERSION_MAJOR, WG_VERSION_MINOR, WG_VERSION_PATCH);
  if (!get_config_public || !public_key_of || !listen_port) return 1;
  if (!endpoint_from_sockaddr || !endpoint_to_sockaddr) return 1;
  if (net_dialled || net_connected || manager_start || manager_configure) return 1;
#ifdef WG_EMBED_NETSTACK
  if (!net_dial || !net_listen || !net_accept || !net_local_address || !net_peer_address || !net_intercept ||
      !net_answer || !net_resolve || !net_ping || !net_reset || !net_socks5 || !net_http ||
      !net_stop_proxy)
    return 1;
#endif
#ifdef WG_EMBED_CONTROL
  if (!wireproto_call || !open_tunnel || !manager_serve || !manager_update || !manager_wait || !manager_stop) return 1;
#endif
  if (!set_peer || !remove_peer || !force_handshake || !drop_session) return 1;
  if (!turn_on || !turn_on_with || !turn_off || !set_config || !get_config || !peek_socket_fd4 || !peek_socket_fd6 ||
      !bind_to_interface4 || !bind_to_interface6 || !bump_sockets || !disable_roaming || !set_fwmark || !pause_tunnel ||
      !resume_tunnel || !set_tun_fd || !free_memory || !last_error || !keys_generate_private || !keys_derive_public ||
      !keys_generate_preshared || !keys_to_hex || !keys_to_base64 || !keys_from_hex || !keys_from_base64 ||
      !set_log_callback || !set_tunnel_log_callback || !set_log_level || !set_tunnel_log_level || !set_event_callback ||
      !event_fd || !result_text || !conf_parse || !conf_changes || !next_event || !stats || !counters || !peer_stats ||
      !peers || !memory_usage || !trim || !udp_open || !udp_adopt || !udp_reopen || !udp_close || !udp_batch_size ||
      !udp_set_mark || !udp_set_interface || !udp_peek_fd || !udp_send || !udp_recv || protect_type ||
      !endpoint_parse || !endpoint_format || !endpoint_format_source || !endpoint_clear_source || !network_changed ||
      !resolve_system || !tun_inject || !transport_receive || !set_mtu || tun_write || tun_room || transport_send)
    return 1;
  if (strcmp(version_string(), text) != 0 || version_number() != WG_VERSION_NUMBER) {
    fprintf(stderr, "the library is %s (%#x), the header %s\n", version_string(), (unsigned)version_number(), text);
    return 1;
  }
  return 0;
}
