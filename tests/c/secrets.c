/* No call leaves a copy of a key on the stack of its thread. Each is made on a thread whose stack is searched
 * afterwards. */
#include "check.h"
#include <sys/mman.h>

#define STACK (1 << 20)

/* Not on the stack that is searched, all of it. */
static unsigned char private_key[WG_KEY_LEN], preshared_key[WG_KEY_LEN], read_key[WG_KEY_LEN], public_key[WG_KEY_LEN];
static char private_hex[WG_KEY_HEX_LEN], preshared_hex[WG_KEY_HEX_LEN];
static char private_base64[WG_KEY_BASE64_LEN], preshared_base64[WG_KEY_BASE64_LEN];
static char config[1024], conf[1024];
static int tun[2];
static int32_t handle;

static void makes_a_private_key(void) { CHECK_EQ(wg_keys_generate_private(private_key), WG_OK); }
static void makes_a_preshared_key(void) { CHECK_EQ(wg_keys_generate_preshared(preshared_key), WG_OK); }
static void derives(void) { CHECK_EQ(wg_keys_derive_public(private_key, public_key), WG_OK); }
static void writes_hex(void) {
  CHECK_EQ(wg_keys_to_hex(private_key, private_hex), WG_OK);
  CHECK_EQ(wg_keys_to_hex(preshared_key, preshared_hex), WG_OK);
}
static void writes_base64(void) {
  CHECK_EQ(wg_keys_to_base64(private_key, private_base64), WG_OK);
  CHECK_EQ(wg_keys_to_base64(preshared_key, preshared_base64), WG_OK);
}
static void reads_hex(void) { CHECK_EQ(wg_keys_from_hex(private_hex, read_key), WG_OK); }
static void reads_base64(void) { CHECK_EQ(wg_keys_from_base64(preshared_base64, read_key), WG_OK); }
/* On the main thread: what snprintf() leaves is the test's own. */
static void prepare(void) {
  make_pair(SOCK_DGRAM, tun);
  snprintf(config, sizeof config, "private_key=%s\npublic_key=%s\npreshared_key=%s\nallowed_ip=0.0.0.0/0\n", private_hex,
           PUBLIC_B, preshared_hex);
  snprintf(conf, sizeof conf,
           "[Interface]\nPrivateKey = %s\nPostUp = wg set %%i peer x preshared-key %s\n"
           "[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nPresharedKey = %s\nAllowedIPs = ::/0\n",
           private_base64, preshared_base64, preshared_base64);
}
static void file_is_parsed(void) {
  char *uapi, *settings;
  CHECK_EQ(wg_conf_parse(conf, strlen(conf), &uapi, &settings), WG_OK);
  CHECK(strstr(uapi, private_hex) != NULL && strstr(uapi, preshared_hex) != NULL);
  CHECK(strstr(settings, preshared_base64) != NULL);
  wg_free(uapi);
  wg_free(settings);
}
static void file_is_refused(void) {
  char *uapi;
  /* Its last line is cut off. */
  CHECK_EQ(wg_conf_parse(conf, strlen(conf) - 4, &uapi, NULL), WG_ERR_INVALID);
}
static void files_are_compared(void) {
  static const char empty[] = "[Interface]\n";
  char *uapi;
  CHECK_EQ(wg_conf_changes(empty, strlen(empty), conf, strlen(conf), &uapi), WG_OK);
  CHECK(strstr(uapi, private_hex) != NULL && strstr(uapi, preshared_hex) != NULL);
  wg_free(uapi);
}
static void is_turned_on(void) { CHECK((handle = wg_turn_on(tun[0], config)) > 0); }
static void is_refused(void) {
  /* The last line is wrong, and the keys have been read by then. */
  CHECK_EQ(wg_set_config(handle, config), WG_ERR_INVALID);
}
static void is_set(void) { CHECK_EQ(wg_set_config(handle, config), WG_OK); }
static wg_peer_config_t peer = WG_PEER_CONFIG_INIT;
static void peer_is_set(void) {
  memcpy(peer.preshared_key, preshared_key, WG_KEY_LEN);
  memcpy(peer.public_key, public_key, WG_KEY_LEN);
  peer.flags = WG_PEER_HAS_PRESHARED_KEY;
  CHECK_EQ(wg_set_peer(handle, &peer), WG_OK);
}
static void peer_is_refused(void) {
  peer.endpoint = "127.0.0.1";
  CHECK_EQ(wg_set_peer(handle, &peer), WG_ERR_INVALID);
}
static void handshake_is_forced(void) { CHECK_EQ(wg_force_handshake(handle, NULL), WG_OK); }
static void session_is_dropped(void) { CHECK_EQ(wg_drop_session(handle, NULL), WG_OK); }
static void peer_is_removed(void) { CHECK_EQ(wg_remove_peer(handle, peer.public_key), WG_OK); }
static void is_read(void) {
  char *text;
  CHECK_EQ(wg_get_config(handle, &text), WG_OK);
  CHECK(strstr(text, private_hex) != NULL && strstr(text, preshared_hex) != NULL);
  wg_free(text);
}
static void is_read_in_public(void) {
  char *text;
  CHECK_EQ(wg_get_config_public(handle, &text), WG_OK);
  CHECK(strstr(text, "public_key=" PUBLIC_B) != NULL);
  CHECK(strstr(text, private_hex) == NULL && strstr(text, preshared_hex) == NULL);
  wg_free(text);
}
static void own_key_is_read(void) {
  uint8_t key[WG_KEY_LEN], derived[WG_KEY_LEN];
  CHECK_EQ(wg_public_key(handle, key), WG_OK);
  CHECK_EQ(wg_keys_derive_public(private_key, derived), WG_OK);
  CHECK_EQ(memcmp(key, derived, WG_KEY_LEN), 0);
}
static void is_turned_off(void) { CHECK_EQ(wg_turn_off(handle), WG_OK); }

static void *calls(void *step) {
  (*(void (**)(void))step)();
  return NULL;
}

static int holds(const unsigned char *stack, const void *secret, size_t len) {
  size_t i;
  for (i = 0; i + len <= STACK; i++) {
    if (stack[i] == *(const unsigned char *)secret && memcmp(stack + i, secret, len) == 0) return 1;
  }
  return 0;
}

static void check_leaves_nothing(const char *name, void (*step)(void)) {
  unsigned char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_attr_t attributes;
  pthread_t thread;
  int left;
  CHECK(stack != MAP_FAILED);
  CHECK_EQ(pthread_attr_init(&attributes), 0);
  CHECK_EQ(pthread_attr_setstack(&attributes, stack, STACK), 0);
  CHECK_EQ(pthread_create(&thread, &attributes, calls, &step), 0);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  CHECK_EQ(pthread_attr_destroy(&attributes), 0);
  left = holds(stack, private_key, WG_KEY_LEN) + holds(stack, preshared_key, WG_KEY_LEN) +
         holds(stack, private_hex, WG_KEY_HEX_LEN - 1) + holds(stack, preshared_hex, WG_KEY_HEX_LEN - 1) +
         holds(stack, private_base64, WG_KEY_BASE64_LEN - 1) + holds(stack, preshared_base64, WG_KEY_BASE64_LEN - 1);
  if (left != 0) fprintf(stderr, "%s: keys are left on the stack\n", name);
  CHECK_EQ(left, 0);
  CHECK_EQ(munmap(stack, STACK), 0);
}

/* What a thread needs that calls, as the header has it. Handshakes are begun in the calls themselves. */
#ifndef __SANITIZE_ADDRESS__
static void *on_a_small_stack(void *unused) {
  wg_peer_config_t typed = WG_PEER_CONFIG_INIT;
  static const char *const begin = "public_key=" PUBLIC_A "\nendpoint=127.0.0.1:9\npersistent_keepalive_interval=5\n";
  static const char *const new_key = "private_key=" PRIVATE_A "\n";
  int32_t tunnel = wg_turn_on(tun[0], config);
  char *text;
  file_is_parsed();
  CHECK(tunnel > 0);
  CHECK_EQ(wg_set_config(tunnel, begin), WG_OK);
  memset(typed.public_key, 9, WG_KEY_LEN);
  typed.endpoint = "127.0.0.1:9";
  typed.persistent_keepalive = 5;
  typed.flags = WG_PEER_HAS_PRESHARED_KEY | WG_PEER_HAS_KEEPALIVE;
  CHECK_EQ(wg_set_peer(tunnel, &typed), WG_OK);
  CHECK_EQ(wg_get_config(tunnel, &text), WG_OK);
  wg_free(text);
  CHECK_EQ(wg_drop_session(tunnel, NULL), WG_OK);
  CHECK_EQ(wg_force_handshake(tunnel, NULL), WG_OK);
  CHECK_EQ(wg_remove_peer(tunnel, typed.public_key), WG_OK);
  CHECK_EQ(wg_set_config(tunnel, new_key), WG_OK);
  CHECK_EQ(wg_pause(tunnel), WG_OK);
  CHECK_EQ(wg_resume(tunnel), WG_OK);
  CHECK_EQ(wg_network_changed(tunnel), WG_OK);
  CHECK_EQ(wg_bump_sockets(tunnel), WG_OK);
  CHECK_EQ(wg_turn_off(tunnel), WG_OK);
  return unused;
}
#endif

static void a_small_stack_is_enough(void) {
#ifdef __SANITIZE_ADDRESS__
  printf("skipped: a small stack, of which a sanitizer takes much; capi/ffi/tests/c_abi/ runs this without one\n");
#else
  pthread_attr_t attributes;
  pthread_t thread;
  CHECK_EQ(pthread_attr_init(&attributes), 0);
  CHECK_EQ(pthread_attr_setstacksize(&attributes, 64 * 1024), 0);
  CHECK_EQ(pthread_create(&thread, &attributes, on_a_small_stack, NULL), 0);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  CHECK_EQ(pthread_attr_destroy(&attributes), 0);
#endif
}

int main(void) {
  /* What is still zero would be found everywhere. */
  makes_a_private_key();
  makes_a_preshared_key();
  writes_hex();
  writes_base64();
  check_leaves_nothing("wg_keys_generate_private", makes_a_private_key);
  check_leaves_nothing("wg_keys_generate_preshared", makes_a_preshared_key);
  check_leaves_nothing("wg_keys_to_hex", writes_hex);
  check_leaves_nothing("wg_keys_to_base64", writes_base64);
  check_leaves_nothing("wg_keys_from_hex", reads_hex);
  check_leaves_nothing("wg_keys_from_base64", reads_base64);
  check_leaves_nothing("wg_keys_derive_public", derives);
  prepare();
  check_leaves_nothing("wg_conf_parse", file_is_parsed);
  check_leaves_nothing("wg_conf_parse, refused", file_is_refused);
  check_leaves_nothing("wg_conf_changes", files_are_compared);
  check_leaves_nothing("wg_turn_on", is_turned_on);
  check_leaves_nothing("wg_set_config", is_set);
  check_leaves_nothing("wg_get_config", is_read);
  check_leaves_nothing("wg_get_config_public", is_read_in_public);
  check_leaves_nothing("wg_public_key", own_key_is_read);
  CHECK_EQ(wg_keys_generate_private(public_key), WG_OK); /* any other peer */
  check_leaves_nothing("wg_set_peer", peer_is_set);
  check_leaves_nothing("wg_set_peer, refused", peer_is_refused);
  CHECK_EQ(wg_set_config(handle, "public_key=" PUBLIC_B "\nendpoint=127.0.0.1:9\n"), WG_OK);
  check_leaves_nothing("wg_force_handshake", handshake_is_forced);
  check_leaves_nothing("wg_drop_session", session_is_dropped);
  check_leaves_nothing("wg_remove_peer", peer_is_removed);
  strcat(config, "no_such_key=1\n");
  check_leaves_nothing("wg_set_config, refused", is_refused);
  check_leaves_nothing("wg_turn_off", is_turned_off);
  close(tun[1]);
  prepare();
  a_small_stack_is_enough();
  close(tun[1]);
  return 0;
}
