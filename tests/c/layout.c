/* What must never change, on platforms with 64-bit pointers: compiled as C11, for its assertions. */
#include "wg_embed.h"

#include <stdio.h>
#include <string.h>

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(wg_options_t) == 72, "wg_options_t");
_Static_assert(_Alignof(wg_options_t) == 8, "wg_options_t");
_Static_assert(offsetof(wg_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_options_t, tun_fd) == 8, "tun_fd");
_Static_assert(offsetof(wg_options_t, fd_ownership) == 12, "fd_ownership");
_Static_assert(offsetof(wg_options_t, mtu) == 16, "mtu");
_Static_assert(offsetof(wg_options_t, max_peers) == 20, "max_peers");
_Static_assert(offsetof(wg_options_t, protect) == 24, "protect");
_Static_assert(offsetof(wg_options_t, protect_user) == 32, "protect_user");
_Static_assert(offsetof(wg_options_t, protect_destroy) == 40, "protect_destroy");
_Static_assert(offsetof(wg_options_t, resolve) == 48, "resolve");
_Static_assert(offsetof(wg_options_t, resolve_user) == 56, "resolve_user");
_Static_assert(offsetof(wg_options_t, resolve_destroy) == 64, "resolve_destroy");

_Static_assert(sizeof(wg_bind_options_t) == 40, "wg_bind_options_t");
_Static_assert(_Alignof(wg_bind_options_t) == 8, "wg_bind_options_t");
_Static_assert(offsetof(wg_bind_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_bind_options_t, protect) == 8, "protect");
_Static_assert(offsetof(wg_bind_options_t, user) == 16, "user");
_Static_assert(offsetof(wg_bind_options_t, destroy) == 24, "destroy");
_Static_assert(offsetof(wg_bind_options_t, mark) == 32, "mark");
_Static_assert(offsetof(wg_bind_options_t, flags) == 36, "flags");

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

_Static_assert(sizeof(wg_address_t) == 20 && _Alignof(wg_address_t) == 4, "wg_address_t");
_Static_assert(offsetof(wg_address_t, family) == 0, "family");
_Static_assert(offsetof(wg_address_t, bytes) == 4, "bytes");

_Static_assert(sizeof(wg_result) == 4 && sizeof(enum wg_result) == 4, "wg_result");
_Static_assert(sizeof(wg_log_level_t) == 4 && sizeof(wg_fd_ownership_t) == 4, "enums");
_Static_assert(sizeof(wg_family_t) == 4 && sizeof(wg_bind_flags_t) == 4 && sizeof(wg_datagram_flags_t) == 4, "enums");

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
FIXED(WG_BATCH_SIZE, 128);
FIXED(WG_ENDPOINT_TEXT_LEN, 64);
FIXED(WG_IPV4, 4);
FIXED(WG_IPV6, 6);
FIXED(WG_BIND_NO_OFFLOAD, 1);
FIXED(WG_BIND_ANY_INTERFACE, 2);
FIXED(WG_DATAGRAM_DROPPED, 1);
FIXED(WG_DATAGRAM_SOURCE_CLEARED, 2);
FIXED(WG_DATAGRAM_TRUNCATED, 4);
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
static int32_t (*const peek_socket_fd4)(int32_t) = wg_peek_socket_fd4;
static int32_t (*const peek_socket_fd6)(int32_t) = wg_peek_socket_fd6;
static wg_result (*const bind_to_interface4)(int32_t, uint32_t, int32_t) = wg_bind_socket_to_interface4;
static wg_result (*const bind_to_interface6)(int32_t, uint32_t, int32_t) = wg_bind_socket_to_interface6;
static wg_result (*const bump_sockets)(int32_t) = wg_bump_sockets;
static wg_result (*const disable_roaming)(int32_t) = wg_disable_roaming;
static wg_result (*const set_fwmark)(int32_t, uint32_t) = wg_set_fwmark;
static wg_result (*const pause_tunnel)(int32_t) = wg_pause;
static wg_result (*const resume_tunnel)(int32_t) = wg_resume;
static void (*const free_memory)(void *) = wg_free;
static const char *(*const last_error)(void) = wg_last_error;
static wg_resolve_fn_t const resolve_system = wg_resolve_system;
static wg_result (*const network_changed)(int32_t) = wg_network_changed;
static wg_result (*const generate_private_key)(uint8_t *) = wg_generate_private_key;
static wg_result (*const generate_public_key)(const uint8_t *, uint8_t *) = wg_generate_public_key;
static wg_result (*const generate_preshared_key)(uint8_t *) = wg_generate_preshared_key;
static wg_result (*const key_to_hex)(const uint8_t *, char *) = wg_key_to_hex;
static wg_result (*const key_to_base64)(const uint8_t *, char *) = wg_key_to_base64;
static wg_result (*const key_from_hex)(const char *, uint8_t *) = wg_key_from_hex;
static wg_result (*const key_from_base64)(const char *, uint8_t *) = wg_key_from_base64;
static wg_result (*const set_log_callback)(void (*)(void *, int32_t, int32_t, const char *), void *,
                                           void (*)(void *)) = wg_set_log_callback;
static wg_result (*const set_log_level)(int32_t) = wg_set_log_level;
static int32_t (*const bind_open)(const wg_bind_options_t *, uint16_t *) = wg_bind_open;
static int32_t (*const bind_adopt)(int32_t, uint32_t, const wg_bind_options_t *, uint16_t *) = wg_bind_adopt;
static wg_result (*const bind_reopen)(int32_t, uint16_t *) = wg_bind_reopen;
static wg_result (*const bind_close)(int32_t) = wg_bind_close;
static int32_t (*const bind_batch_size)(int32_t) = wg_bind_batch_size;
static wg_result (*const bind_set_mark)(int32_t, uint32_t) = wg_bind_set_mark;
static wg_result (*const bind_set_interface)(int32_t, uint32_t, uint32_t, int32_t) = wg_bind_set_interface;
static int32_t (*const bind_peek_fd)(int32_t, uint32_t) = wg_bind_peek_fd;
static int32_t (*const bind_send)(int32_t, wg_datagram_t *, size_t, wg_send_report_t *) = wg_bind_send;
static int32_t (*const bind_recv)(int32_t, uint32_t, wg_datagram_t *, size_t, int32_t) = wg_bind_recv;
static int32_t (*const protect_type)(void *, int32_t, uint32_t) = (wg_protect_fn_t)0;
static wg_result (*const endpoint_parse)(const char *, wg_endpoint_t *) = wg_endpoint_parse;
static wg_result (*const endpoint_format)(const wg_endpoint_t *, char *) = wg_endpoint_format;
static wg_result (*const endpoint_format_source)(const wg_endpoint_t *, char *) = wg_endpoint_format_source;
static wg_result (*const endpoint_clear_source)(wg_endpoint_t *) = wg_endpoint_clear_source;
static const char *(*const version_string)(void) = wg_version_string;
static uint32_t (*const version_number)(void) = wg_version_number;

int main(void) {
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", WG_VERSION_MAJOR, WG_VERSION_MINOR, WG_VERSION_PATCH);
  if (!peek_socket_fd4 || !peek_socket_fd6 || !bind_to_interface4 || !bind_to_interface6 || !bump_sockets || !disable_roaming ||
      !set_fwmark || !pause_tunnel || !resume_tunnel || !turn_on || !turn_on_with || !turn_off || !set_config || !get_config || !free_memory || !last_error ||
      !generate_private_key || !generate_public_key || !generate_preshared_key || !key_to_hex || !key_to_base64 ||
      !key_from_hex || !key_from_base64 || !set_log_callback || !set_log_level || !bind_open || !bind_adopt ||
      !bind_reopen || !bind_close || !bind_batch_size || !bind_set_mark || !bind_set_interface || !bind_peek_fd ||
      !bind_send || !bind_recv || protect_type || !endpoint_parse || !endpoint_format || !endpoint_format_source ||
      !endpoint_clear_source || !network_changed || !resolve_system)
    return 1;
  if (strcmp(version_string(), text) != 0 || version_number() != WG_VERSION_NUMBER) {
    fprintf(stderr, "the library is %s (%#x), the header %s\n", version_string(), (unsigned)version_number(), text);
    return 1;
  }
  return 0;
}
