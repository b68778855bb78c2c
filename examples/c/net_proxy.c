/*
 * A proxy on this machine through a tunnel, without root: browsers and other programs use the VPN, the system does not.
 *
 *     cargo build --release -p wg-embed-capi --features netstack
 *     cc -std=c99 -O2 -Iinclude examples/c/net_proxy.c -o net_proxy \
 *         -Ltarget/release -lwg_embed -Wl,-rpath,target/release
 *     ./net_proxy wg0.conf                 a .conf file as for wg-quick(8); runs until Ctrl-C
 *     ./net_proxy                          without a file: one request through a tunnel to another one in this program
 *
 * It prints what to try:
 *
 *     curl --proxy socks5h://me:PASSWORD@127.0.0.1:PORT http://example.com/
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, wg_last_error());
  exit(1);
}

/* Turns a .conf file into a tunnel with a userspace network. */
static int32_t turn_on(const char *conf, size_t len) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char *uapi, *settings;
  int32_t tunnel;
  if (wg_conf_parse(conf, len, &uapi, &settings) != WG_OK) fail("the .conf file");
  net.settings = settings; /* Address, DNS and MTU, as they are in the file */
  options.net = &net;
  options.resolve = wg_resolve_system; /* for the endpoint, outside of the tunnel */
  tunnel = wg_turn_on_with(&options, uapi);
  if (tunnel < 0) fail("wg_turn_on_with");
  wg_free(uapi); /* which wipes it */
  wg_free(settings);
  return tunnel;
}

/* A password that nobody guesses: other users of this machine can reach a loopback address as well. */
static void make_password(char password[WG_KEY_HEX_LEN]) {
  uint8_t random[WG_KEY_LEN];
  if (wg_keys_generate_preshared(random) != WG_OK || wg_keys_to_hex(random, password) != WG_OK) fail("a password");
}

static void serve_until_signal(const char *path) {
  static char file[1 << 20];
  char address[WG_ENDPOINT_TEXT_LEN], password[WG_KEY_HEX_LEN];
  volatile char *secret = file;
  FILE *from = fopen(path, "rb");
  sigset_t signals;
  int32_t tunnel;
  size_t len;
  int number;
  if (from == NULL || setvbuf(from, NULL, _IONBF, 0) != 0) {
    perror(path);
    exit(1);
  }
  len = fread(file, 1, sizeof file, from);
  fclose(from);
  tunnel = turn_on(file, len);
  while (len > 0) secret[--len] = 0;
  make_password(password);
  if (wg_net_socks5(tunnel, NULL, "me", password, 0, address) < 0) fail("wg_net_socks5");
  printf("curl --proxy socks5h://me:%s@%s http://example.com/\n", password, address);
  if (wg_net_http(tunnel, NULL, "me", password, 0, address) < 0) fail("wg_net_http");
  printf("curl --proxy http://me:%s@%s http://example.com/\n", password, address);
  fflush(stdout);
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, NULL); /* the library's threads block them anyway */
  sigwait(&signals, &number);
  wg_turn_off(tunnel); /* which ends the proxies */
}

/* Without a file: the other side is a tunnel with a server inside it. Its keys are no secret. */
struct server {
  int32_t tunnel, listener;
};

static void *serve(void *argument) {
  const struct server *server = argument;
  char text[64];
  int32_t fd;
  ssize_t len;
  if (wg_net_accept(server->tunnel, server->listener, -1, &fd, NULL) != WG_OK) fail("wg_net_accept");
  while ((len = read(fd, text, sizeof text)) > 0)
    if (write(fd, text, (size_t)len) != len) break;
  close(fd);
  return NULL;
}

static void exchange(int fd, const char *sent, size_t len, char *got, size_t expected) {
  size_t have = 0;
  ssize_t more;
  if (send(fd, sent, len, 0) != (ssize_t)len) exit(1);
  while (have < expected && (more = read(fd, got + have, expected - have)) > 0) have += (size_t)more;
  if (have < expected) exit(1);
}

/* As a program does that knows nothing of WireGuard. */
static int use(const char *proxy) {
  struct sockaddr_in to;
  size_t len = sizeof to;
  wg_endpoint_t endpoint;
  char got[10];
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (wg_endpoint_parse(proxy, &endpoint) != WG_OK || wg_endpoint_to_sockaddr(&endpoint, &to, &len) != WG_OK)
    fail(proxy);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, (socklen_t)len) != 0) {
    perror(proxy);
    exit(1);
  }
  exchange(fd, "\5\1\0", 3, got, 2);                     /* SOCKS5, without a login */
  exchange(fd, "\5\1\0\1\12\0\0\1\0\7", 10, got, 10);   /* connect to 10.0.0.1:7 */
  if (got[1] != 0) return 1;
  exchange(fd, "hello", 5, got, 5);
  printf("through a proxy and a tunnel: %.5s\n", got);
  close(fd);
  return memcmp(got, "hello", 5) != 0;
}

static int demonstrate(void) {
  static const char theirs[] = "[Interface]\nPrivateKey = QEJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n"
                               "Address = 10.0.0.1\n"
                               "[Peer]\nPublicKey = ehpOcJvwhaxJSroEabmx7aCrH3ixaqu3n/7akGI+hSI=\n"
                               "AllowedIPs = 10.0.0.2/32\n";
  char ours[512], address[WG_ENDPOINT_TEXT_LEN];
  struct server server;
  pthread_t thread;
  int32_t tunnel;
  int failed;
  server.tunnel = turn_on(theirs, sizeof theirs - 1);
  if (wg_net_listen(server.tunnel, "tcp", "10.0.0.1:7", 0, &server.listener) != WG_OK) fail("wg_net_listen");
  snprintf(ours, sizeof ours,
           "[Interface]\nPrivateKey = QEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\nAddress = 10.0.0.2/24\n"
           "[Peer]\nPublicKey = EyxEK+AQ+9V+cmAzKKp25x/MwVA6riGTJ9FNnJmT9HI=\nEndpoint = 127.0.0.1:%d\n"
           "AllowedIPs = 0.0.0.0/0\n",
           wg_listen_port(server.tunnel));
  tunnel = turn_on(ours, strlen(ours));
  if (wg_net_socks5(tunnel, NULL, NULL, NULL, 0, address) < 0) fail("wg_net_socks5");
  if (pthread_create(&thread, NULL, serve, &server) != 0) return 1;
  failed = use(address);
  pthread_join(thread, NULL);
  close(server.listener);
  wg_turn_off(tunnel);
  wg_turn_off(server.tunnel);
  return failed;
}

int main(int argc, char **argv) {
  if (argc < 2) return demonstrate();
  serve_until_signal(argv[1]);
  return 0;
}
