/* What must never change, on platforms with 64-bit pointers: compiled as C11, for its assertions. */
#include "wg_embed.h"

#include <stdio.h>
#include <string.h>

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(wg_options_t) == 32, "wg_options_t");
_Static_assert(_Alignof(wg_options_t) == 8, "wg_options_t");
_Static_assert(offsetof(wg_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_options_t, tun_fd) == 8, "tun_fd");
_Static_assert(offsetof(wg_options_t, fd_ownership) == 12, "fd_ownership");
_Static_assert(offsetof(wg_options_t, mtu) == 16, "mtu");
_Static_assert(offsetof(wg_options_t, max_peers) == 20, "max_peers");
_Static_assert(offsetof(wg_options_t, memory_limit) == 24, "memory_limit");

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

_Static_assert(sizeof(wg_memory_usage_t) == 48 && _Alignof(wg_memory_usage_t) == 8, "wg_memory_usage_t");
_Static_assert(offsetof(wg_memory_usage_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_memory_usage_t, limit) == 8, "limit");
_Static_assert(offsetof(wg_memory_usage_t, total) == 16, "total");
_Static_assert(offsetof(wg_memory_usage_t, buffers) == 24, "buffers");
_Static_assert(offsetof(wg_memory_usage_t, staged) == 32, "staged");
_Static_assert(offsetof(wg_memory_usage_t, peers) == 40, "peers");
#endif

_Static_assert(sizeof(wg_result) == 4 && sizeof(enum wg_result) == 4, "wg_result");
_Static_assert(sizeof(wg_log_level_t) == 4 && sizeof(wg_fd_ownership_t) == 4, "enums");
_Static_assert(sizeof(wg_event_kind_t) == 4, "wg_event_kind_t");
_Static_assert(sizeof(wg_counter_t) == 48 && offsetof(wg_counter_t, name) == 0, "wg_counter_t");
_Static_assert(offsetof(wg_counter_t, value) == 40, "value");

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
FIXED(WG_ERR_RESOURCES, -30);
FIXED(WG_ERR_PANIC, -40);
FIXED(WG_KEY_LEN, 32);
FIXED(WG_KEY_HEX_LEN, 65);
FIXED(WG_KEY_BASE64_LEN, 45);
FIXED(WG_FD_TAKE, 1);
FIXED(WG_FD_DUP, 2);
FIXED(WG_ENDPOINT_LEN, 64);
FIXED(WG_REASON_LEN, 192);
FIXED(WG_COUNTER_NAME_LEN, 40);
FIXED(WG_EVENT_HANDSHAKE_COMPLETED, 1);
FIXED(WG_EVENT_HANDSHAKE_FAILED, 2);
FIXED(WG_EVENT_SESSION_EXPIRED, 3);
FIXED(WG_EVENT_ENDPOINT_CHANGED, 4);
FIXED(WG_EVENT_SOCKETS_LOST, 10);
FIXED(WG_EVENT_SOCKETS_RECOVERED, 11);
FIXED(WG_EVENT_ENDED, 20);
FIXED(WG_LOG_OFF, 0);
FIXED(WG_LOG_ERROR, 1);
FIXED(WG_LOG_WARN, 2);
FIXED(WG_LOG_INFO, 3);
FIXED(WG_LOG_DEBUG, 4);
FIXED(WG_LOG_TRACE, 5);

/* Each function has exactly this type; the compiler says so if not. */
static int32_t (*const turn_on)(int32_t, const char *) = wg_turn_on;
static int32_t (*const turn_on_with)(const wg_options_t *, const char *) = wg_turn_on_with;
static wg_result (*const turn_off)(int32_t) = wg_turn_off;
static wg_result (*const set_config)(int32_t, const char *) = wg_set_config;
static wg_result (*const get_config)(int32_t, char **) = wg_get_config;
static void (*const free_memory)(void *) = wg_free;
static const char *(*const last_error)(void) = wg_last_error;
static wg_result (*const generate_private_key)(uint8_t *) = wg_generate_private_key;
static wg_result (*const generate_public_key)(const uint8_t *, uint8_t *) = wg_generate_public_key;
static wg_result (*const generate_preshared_key)(uint8_t *) = wg_generate_preshared_key;
static wg_result (*const key_to_hex)(const uint8_t *, char *) = wg_key_to_hex;
static wg_result (*const key_to_base64)(const uint8_t *, char *) = wg_key_to_base64;
static wg_result (*const key_from_hex)(const char *, uint8_t *) = wg_key_from_hex;
static wg_result (*const key_from_base64)(const char *, uint8_t *) = wg_key_from_base64;
static wg_result (*const set_log_callback)(void (*)(void *, int32_t, int32_t, const char *), void *,
                                           void (*)(void *)) = wg_set_log_callback;
static wg_result (*const set_tunnel_log_callback)(int32_t, void (*)(void *, int32_t, int32_t, const char *), void *,
                                                  void (*)(void *)) = wg_set_tunnel_log_callback;
static wg_result (*const set_log_level)(int32_t) = wg_set_log_level;
static wg_result (*const set_event_callback)(int32_t, void (*)(void *, int32_t, const wg_event_t *), void *,
                                             void (*)(void *)) = wg_set_event_callback;
static wg_result (*const stats)(int32_t, wg_stats_t *) = wg_stats;
static wg_result (*const counters)(int32_t, wg_counter_t *, size_t, size_t *) = wg_counters;
static wg_result (*const peer_stats)(int32_t, const uint8_t *, wg_peer_stats_t *) = wg_peer_stats;
static wg_result (*const peers)(int32_t, wg_peer_stats_t *, size_t, size_t *) = wg_peers;
static wg_result (*const memory_usage)(int32_t, wg_memory_usage_t *) = wg_memory_usage;
static wg_result (*const trim)(int32_t) = wg_trim;
static const char *(*const version_string)(void) = wg_version_string;
static uint32_t (*const version_number)(void) = wg_version_number;

int main(void) {
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", WG_VERSION_MAJOR, WG_VERSION_MINOR, WG_VERSION_PATCH);
  if (!turn_on || !turn_on_with || !turn_off || !set_config || !get_config || !free_memory || !last_error ||
      !generate_private_key || !generate_public_key || !generate_preshared_key || !key_to_hex || !key_to_base64 ||
      !key_from_hex || !key_from_base64 || !set_log_callback || !set_tunnel_log_callback || !set_log_level ||
      !set_event_callback || !stats || !counters || !peer_stats || !peers || !memory_usage || !trim)
    return 1;
  if (strcmp(version_string(), text) != 0 || version_number() != WG_VERSION_NUMBER) {
    fprintf(stderr, "the library is %s (%#x), the header %s\n", version_string(), (unsigned)version_number(), text);
    return 1;
  }
  return 0;
}
