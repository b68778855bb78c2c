/* What a support log or a user interface may show: the configuration without secrets, our public key, our port. */
#include "check.h"

/* `text` without the lines that begin with one of these. */
static void strip(char *text) {
  char *to = text, *line = text;
  while (*line != '\0') {
    size_t len = strcspn(line, "\n") + 1;
    if (strncmp(line, "private_key=", 12) != 0 && strncmp(line, "preshared_key=", 14) != 0) {
      memmove(to, line, len);
      to += len;
    }
    line += len;
  }
  *to = '\0';
}

static void check_public(struct end end) {
  char *all = get(end.handle), *text = NULL;
  CHECK_EQ(wg_get_config_public(end.handle, &text), WG_OK);
  CHECK(strstr(text, "private_key=") == NULL && strstr(text, "preshared_key=") == NULL);
  strip(all);
  CHECK_TEXT(text, all);
  wg_free(text);
  wg_free(all);
}

static void the_configuration_without_secrets(void) {
  struct end a, b;
  char *text = NULL;
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_public(a);
  check_exchange(a, b);
  /* Nothing is on its way that would be counted in between. */
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  check_public(a);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  check_exchange(a, b);
  CHECK_FAILS(wg_get_config_public(a.handle, NULL), WG_ERR_NULL, "out is NULL");
  CHECK_FAILS(wg_get_config_public(-1, &text), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK(text == NULL);
  turn_off(a);
  turn_off(b);
}

static void our_public_key(void) {
  uint8_t expected[WG_KEY_LEN], key[WG_KEY_LEN];
  struct end a = turn_on(SOCK_DGRAM, "");
  memset(key, 7, sizeof key);
  CHECK_FAILS(wg_public_key(a.handle, key), WG_ERR_NOT_FOUND, "no private key");
  CHECK(key[0] == 7 && key[31] == 7);
  CHECK_EQ(wg_set_config(a.handle, "private_key=" PRIVATE_A "\n"), WG_OK);
  key_bytes(PUBLIC_A, expected);
  CHECK_EQ(wg_public_key(a.handle, key), WG_OK);
  CHECK_EQ(memcmp(key, expected, WG_KEY_LEN), 0);
  CHECK_FAILS(wg_public_key(a.handle, NULL), WG_ERR_NULL, "NULL");
  CHECK_FAILS(wg_public_key(-1, key), WG_ERR_UNKNOWN_HANDLE, "handle");
  turn_off(a);
}

static size_t sends_nothing(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)user, (void)handle, (void)datagrams;
  return count;
}

static void our_port(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  struct end a = turn_on(SOCK_DGRAM, "");
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  int port = wg_listen_port(a.handle), pair[2];
  CHECK_EQ(port, listen_port(a.handle));
  CHECK_EQ(getsockname(wg_peek_socket_fd4(a.handle), (struct sockaddr *)&address, &len), 0);
  CHECK_EQ(ntohs(address.sin_port), port);
  CHECK_EQ(wg_bump_sockets(a.handle), WG_OK);
  CHECK_EQ(wg_listen_port(a.handle), port);

  /* What is configured stays in the text. */
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_EQ(wg_listen_port(a.handle), 0);
  CHECK_EQ(listen_port(a.handle), port);
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  CHECK(wg_listen_port(a.handle) > 0);
  turn_off(a);
  CHECK_FAILS(wg_listen_port(a.handle), WG_ERR_UNKNOWN_HANDLE, "handle");

  make_pair(SOCK_DGRAM, pair);
  transport.send = sends_nothing;
  options.tun_fd = pair[0];
  options.transport = &transport;
  a.handle = wg_turn_on_with(&options, "listen_port=7\n");
  a.app = pair[1];
  CHECK(a.handle > 0);
  CHECK_EQ(wg_listen_port(a.handle), 0);
  turn_off(a);
}

/* It can still be looked at, and not changed. */
static void of_a_tunnel_that_has_ended(void) {
  struct end a = turn_on(SOCK_SEQPACKET, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=127.0.0.1:9\n");
  wg_peer_config_t peer = WG_PEER_CONFIG_INIT;
  uint8_t key[WG_KEY_LEN];
  int tries;
  CHECK_EQ(close(a.app), 0);
  for (tries = 0; tries < TRIES && wg_set_config(a.handle, "") != WG_ERR_CLOSED; tries++) sleep_ms(1);
  key_bytes(PUBLIC_B, key);
  memcpy(peer.public_key, key, WG_KEY_LEN);
  CHECK_FAILS(wg_set_peer(a.handle, &peer), WG_ERR_CLOSED, "has ended");
  CHECK_FAILS(wg_remove_peer(a.handle, key), WG_ERR_CLOSED, "has ended");
  CHECK_FAILS(wg_force_handshake(a.handle, key), WG_ERR_CLOSED, "has ended");
  CHECK_FAILS(wg_drop_session(a.handle, NULL), WG_ERR_CLOSED, "has ended");
  CHECK_EQ(wg_listen_port(a.handle), 0);
  CHECK_EQ(wg_public_key(a.handle, key), WG_OK);
  check_public(a);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
}

int main(void) {
  of_a_tunnel_that_has_ended();
  the_configuration_without_secrets();
  our_public_key();
  our_port();
  return 0;
}
