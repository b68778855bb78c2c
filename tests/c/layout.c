/* What must never change, on platforms with 64-bit pointers: compiled as C11, for its assertions. */
#include "wg_embed.h"

#include <stdio.h>
#include <string.h>

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(wg_options_t) == 40, "wg_options_t");
_Static_assert(_Alignof(wg_options_t) == 8, "wg_options_t");
_Static_assert(offsetof(wg_options_t, struct_size) == 0, "struct_size");
_Static_assert(offsetof(wg_options_t, tun_fd) == 8, "tun_fd");
_Static_assert(offsetof(wg_options_t, fd_ownership) == 12, "fd_ownership");
_Static_assert(offsetof(wg_options_t, mtu) == 16, "mtu");
_Static_assert(offsetof(wg_options_t, max_peers) == 20, "max_peers");
_Static_assert(offsetof(wg_options_t, tun) == 24, "tun");
_Static_assert(offsetof(wg_options_t, transport) == 32, "transport");
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
_Static_assert(sizeof(wg_transport_datagram_t) == 64 && _Alignof(wg_transport_datagram_t) == 8, "datagram");
_Static_assert(offsetof(wg_transport_datagram_t, data) == 0, "data");
_Static_assert(offsetof(wg_transport_datagram_t, len) == 8, "len");
_Static_assert(offsetof(wg_transport_datagram_t, endpoint) == 16, "endpoint");
_Static_assert(offsetof(wg_transport_datagram_t, tos) == 60, "tos");
#endif

_Static_assert(sizeof(wg_endpoint_t) == 44 && _Alignof(wg_endpoint_t) == 4, "wg_endpoint_t");
_Static_assert(offsetof(wg_endpoint_t, family) == 0, "family");
_Static_assert(offsetof(wg_endpoint_t, port) == 2, "port");
_Static_assert(offsetof(wg_endpoint_t, scope_id) == 4, "scope_id");
_Static_assert(offsetof(wg_endpoint_t, address) == 8, "address");
_Static_assert(offsetof(wg_endpoint_t, source) == 24, "source");
_Static_assert(offsetof(wg_endpoint_t, source_interface) == 40, "source_interface");

_Static_assert(sizeof(wg_result) == 4 && sizeof(enum wg_result) == 4, "wg_result");
_Static_assert(sizeof(wg_log_level_t) == 4 && sizeof(wg_fd_ownership_t) == 4 && sizeof(wg_family_t) == 4, "enums");

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
FIXED(WG_LOG_OFF, 0);
FIXED(WG_LOG_ERROR, 1);
FIXED(WG_LOG_WARN, 2);
FIXED(WG_LOG_INFO, 3);
FIXED(WG_LOG_DEBUG, 4);
FIXED(WG_LOG_TRACE, 5);
FIXED(WG_BATCH, 128);
FIXED(WG_IPV4, 4);
FIXED(WG_IPV6, 6);

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
static wg_result (*const set_log_level)(int32_t) = wg_set_log_level;
static wg_result (*const tun_inject)(int32_t, const wg_packet_t *, size_t, size_t *) = wg_tun_inject;
static wg_result (*const transport_receive)(int32_t, const wg_transport_datagram_t *, size_t, size_t *) = wg_transport_receive;
static wg_result (*const set_mtu)(int32_t, uint32_t) = wg_set_mtu;
static const char *(*const version_string)(void) = wg_version_string;
static uint32_t (*const version_number)(void) = wg_version_number;
/* And each function of the app. */
static size_t (*const tun_write)(void *, int32_t, const wg_packet_t *, size_t) = (wg_tun_write_fn_t)0;
static void (*const tun_room)(void *, int32_t) = (wg_tun_room_fn_t)0;
static size_t (*const transport_send)(void *, int32_t, const wg_transport_datagram_t *, size_t) =
    (wg_transport_send_fn_t)0;

int main(void) {
  char text[64];
  snprintf(text, sizeof text, "%d.%d.%d", WG_VERSION_MAJOR, WG_VERSION_MINOR, WG_VERSION_PATCH);
  if (!turn_on || !turn_on_with || !turn_off || !set_config || !get_config || !free_memory || !last_error ||
      !generate_private_key || !generate_public_key || !generate_preshared_key || !key_to_hex || !key_to_base64 ||
      !key_from_hex || !key_from_base64 || !set_log_callback || !set_log_level || !tun_inject ||
      !transport_receive || !set_mtu || tun_write || tun_room || transport_send)
    return 1;
  if (strcmp(version_string(), text) != 0 || version_number() != WG_VERSION_NUMBER) {
    fprintf(stderr, "the library is %s (%#x), the header %s\n", version_string(), (unsigned)version_number(), text);
    return 1;
  }
  return 0;
}
