/*
 * A program with wireguard-tools' embeddable-wg-library in it, which uses the kernel's WireGuard where it can and this
 * library elsewhere. Both headers compile in either order (OURS_FIRST), in C and C++, and each call reaches the
 * function that it means. Their declarations are here as facts, and their functions only count their calls.
 * capi/ffi/tests/c_abi/ compares their names with abi/symbols.txt.
 */
#ifdef OURS_FIRST
#include "wg_embed.h"
#endif

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Names of the kernel's interface, which its users include as well. */
#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/wireguard.h>)
#include <linux/wireguard.h>
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A type has a field or two here: the names count. */
typedef uint8_t wg_key[32];
typedef char wg_key_b64_string[45];
struct timespec64 { int64_t tv_sec, tv_nsec; };
typedef struct wg_allowedip { uint16_t family; uint8_t cidr; struct wg_allowedip *next_allowedip; } wg_allowedip;
typedef union wg_endpoint { struct sockaddr addr; struct sockaddr_in addr4; struct sockaddr_in6 addr6; } wg_endpoint;
enum wg_peer_flags {
  WGPEER_REMOVE_ME = 1,
  WGPEER_REPLACE_ALLOWEDIPS = 2,
  WGPEER_HAS_PUBLIC_KEY = 4,
  WGPEER_HAS_PRESHARED_KEY = 8,
  WGPEER_HAS_PERSISTENT_KEEPALIVE_INTERVAL = 16
};
typedef struct wg_peer { enum wg_peer_flags flags; wg_key public_key; struct wg_peer *next_peer; } wg_peer;
enum wg_device_flags {
  WGDEVICE_REPLACE_PEERS = 1,
  WGDEVICE_HAS_PRIVATE_KEY = 2,
  WGDEVICE_HAS_PUBLIC_KEY = 4,
  WGDEVICE_HAS_LISTEN_PORT = 8,
  WGDEVICE_HAS_FWMARK = 16
};
typedef struct wg_device { char name[16]; enum wg_device_flags flags; wg_peer *first_peer; } wg_device;

#define wg_for_each_device_name(names, name, len) \
  for ((name) = (names), (len) = 0; ((len) = strlen(name)); (name) += (len) + 1)
#define wg_for_each_peer(dev, peer) for ((peer) = (dev)->first_peer; (peer); (peer) = (peer)->next_peer)
#define wg_for_each_allowedip(peer, allowedip) \
  for ((allowedip) = (peer)->first_allowedip; (allowedip); (allowedip) = (allowedip)->next_allowedip)

int wg_set_device(wg_device *dev);
int wg_get_device(wg_device **dev, const char *device_name);
int wg_add_device(const char *device_name);
int wg_del_device(const char *device_name);
void wg_free_device(wg_device *dev);
char *wg_list_device_names(void);
void wg_key_to_base64(wg_key_b64_string base64, const wg_key key);
int wg_key_from_base64(wg_key key, const wg_key_b64_string base64);
bool wg_key_is_zero(const wg_key key);
void wg_generate_public_key(wg_key public_key, const wg_key private_key);
void wg_generate_private_key(wg_key private_key);
void wg_generate_preshared_key(wg_key preshared_key);

#ifdef __cplusplus
}
#endif

#ifndef OURS_FIRST
#include "wg_embed.h"
#endif

/* How often each was called. */
static int to_base64, from_base64, public_keys, private_keys, preshared_keys, others;

int wg_set_device(wg_device *dev) { return (void)dev, others++; }
int wg_get_device(wg_device **dev, const char *device_name) { return (void)dev, (void)device_name, others++; }
int wg_add_device(const char *device_name) { return (void)device_name, others++; }
int wg_del_device(const char *device_name) { return (void)device_name, others++; }
void wg_free_device(wg_device *dev) { (void)dev, others++; }
char *wg_list_device_names(void) { return others++, (char *)0; }
bool wg_key_is_zero(const wg_key key) { return others++, key[0] == 0; }
void wg_key_to_base64(wg_key_b64_string base64, const wg_key key) { base64[0] = (char)key[0], to_base64++; }
int wg_key_from_base64(wg_key key, const wg_key_b64_string base64) {
  return key[0] = (uint8_t)base64[0], from_base64++;
}
void wg_generate_public_key(wg_key public_key, const wg_key private_key) {
  public_key[0] = private_key[0], public_keys++;
}
void wg_generate_private_key(wg_key private_key) { private_key[0] = 1, private_keys++; }
void wg_generate_preshared_key(wg_key preshared_key) { preshared_key[0] = 2, preshared_keys++; }

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
      return 1;                                                            \
    }                                                                      \
  } while (0)

static int theirs_were_called(int each) {
  return to_base64 == each && from_base64 == each && public_keys == each && private_keys == each &&
         preshared_keys == each && others == 0;
}

/* Our functions call none of theirs, also inside the library. */
static int ours(void) {
  wg_key private_key, public_key, again;
  char base64[WG_KEY_BASE64_LEN], hex[WG_KEY_HEX_LEN], config[128];
  int ends[2];
  int32_t tunnel;
  CHECK(wg_keys_generate_private(private_key) == WG_OK && wg_keys_derive_public(private_key, public_key) == WG_OK);
  CHECK(wg_keys_to_base64(public_key, base64) == WG_OK && strlen(base64) == WG_KEY_BASE64_LEN - 1);
  CHECK(wg_keys_from_base64(base64, again) == WG_OK && memcmp(public_key, again, sizeof again) == 0);
  CHECK(wg_keys_generate_preshared(again) == WG_OK && wg_keys_to_hex(private_key, hex) == WG_OK);
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
  snprintf(config, sizeof config, "private_key=%s\n", hex);
  tunnel = wg_turn_on(ends[0], config);
  CHECK(tunnel > 0 && wg_public_key(tunnel, again) == WG_OK && memcmp(public_key, again, sizeof again) == 0);
  CHECK(wg_turn_off(tunnel) == WG_OK && close(ends[1]) == 0);
  CHECK(theirs_were_called(0));
  return 0;
}

/* Their functions are the program's. */
static int theirs(void) {
  wg_key key = {0}, other = {0};
  wg_key_b64_string base64 = {0};
  wg_generate_private_key(key);
  wg_generate_public_key(other, key);
  CHECK(key[0] == 1 && other[0] == 1);
  wg_generate_preshared_key(key);
  wg_key_to_base64(base64, key);
  CHECK(base64[0] == 2 && wg_key_from_base64(other, base64) == 0 && other[0] == 2);
  CHECK(theirs_were_called(1));
  return 0;
}

int main(void) { return ours() || theirs(); }
