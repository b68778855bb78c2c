/* wg_net_socks5() and wg_net_http(): who may use them, what passes, and how they end. */
#include "net.h"

#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static struct nets nets;

/* A client of this system, at the text of an address as the functions write it. */
static int connect_to(const char *address) {
  struct sockaddr_storage to;
  size_t len = sizeof to;
  wg_endpoint_t endpoint;
  int fd;
  CHECK_EQ(wg_endpoint_parse(address, &endpoint), WG_OK);
  CHECK(endpoint.port != 0);
  CHECK_EQ(wg_endpoint_to_sockaddr(&endpoint, &to, &len), WG_OK);
  fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  if (connect(fd, (struct sockaddr *)&to, (socklen_t)len) == 0) return fd;
  CHECK_EQ(errno, ECONNREFUSED);
  close(fd);
  return -1;
}

static void check_answer(int fd, const void *expected, size_t len) {
  char got[64];
  CHECK(len <= sizeof got);
  read_all(fd, got, len);
  CHECK_EQ(memcmp(got, expected, len), 0);
}

/* A client that is asked for a login, and presents this one. */
static int present(const char *address, const char *user, const char *password) {
  char request[512];
  int fd = connect_to(address);
  CHECK(fd >= 0);
  write_all(fd, "\5\1\2", 3);
  check_answer(fd, "\5\2", 2);
  snprintf(request, sizeof request, "\1%c%s%c%s", (char)strlen(user), user, (char)strlen(password), password);
  write_all(fd, request, strlen(request));
  return fd;
}

/* Asks a SOCKS5 proxy that is ready for 10.9.0.2:80, and checks that data pass. */
static int ask_socks5(int fd, int listener) {
  int server;
  write_all(fd, "\5\1\0\1\12\11\0\2\0\120", 10);
  server = accept_from(nets.b, listener, NULL);
  {
    unsigned char got[10];
    read_all(fd, got, sizeof got);
    CHECK(got[0] == 5 && got[1] == 0 && got[3] == 1);
  }
  check_sent(fd, server, "there");
  check_sent(server, fd, "and back");
  return server;
}

static void socks5_passes_connections(int listener) {
  char address[WG_ENDPOINT_TEXT_LEN], second[WG_ENDPOINT_TEXT_LEN];
  int fd, server;
  char byte;
  int32_t proxy = wg_net_socks5(nets.a, NULL, NULL, NULL, 0, address), other;
  CHECK(proxy > 0);
  CHECK(strncmp(address, "127.0.0.1:", 10) == 0);
  fd = connect_to(address);
  write_all(fd, "\5\1\0", 3);
  check_answer(fd, "\5\0", 2);
  server = ask_socks5(fd, listener);
  /* Half closes pass. */
  CHECK_EQ(shutdown(fd, SHUT_WR), 0);
  check_end(server);
  check_sent(server, fd, "after the end of the other direction");
  close(server);
  check_end(fd);
  close(fd);
  /* One proxy is at one port. */
  CHECK_FAILS(wg_net_http(nets.a, address, NULL, NULL, 0, second), WG_ERR_ADDR_IN_USE, address);
  other = wg_net_socks5(nets.a, "[::1]:0", "me", "secret", 0, second);
  CHECK(other == proxy + 1);
  CHECK(strncmp(second, "[::1]:", 6) == 0);
  fd = present(second, "me", "secret");
  check_answer(fd, "\1\0", 2);
  server = ask_socks5(fd, listener);
  /* It ends, with its connections, and the other one does not. */
  CHECK_EQ(wg_net_stop_proxy(nets.a, other), WG_OK);
  CHECK_EQ(connect_to(second), -1);
  wait_readable(fd);
  CHECK(recv(fd, &byte, 1, 0) <= 0);
  wait_gone(server);
  close(fd);
  close(server);
  CHECK_FAILS(wg_net_stop_proxy(nets.a, other), WG_ERR_NOT_FOUND, "no proxy with the number");
  fd = connect_to(address);
  close(fd);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
  CHECK_EQ(connect_to(address), -1);
  /* Its port is free. */
  CHECK((proxy = wg_net_http(nets.a, address, NULL, NULL, 0, NULL)) > other);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

/* The ports of the tunnel are the caller's: no program of this system opens one. */
static void bind_is_refused(void) {
  char address[WG_ENDPOINT_TEXT_LEN];
  unsigned char got[10];
  int32_t proxy = wg_net_socks5(nets.a, NULL, NULL, NULL, 0, address);
  int fd;
  CHECK(proxy > 0);
  fd = connect_to(address);
  write_all(fd, "\5\1\0", 3);
  check_answer(fd, "\5\0", 2);
  write_all(fd, "\5\2\0\1\0\0\0\0\0\0", 10);
  read_all(fd, got, sizeof got);
  CHECK(got[0] == 5 && got[1] == 7);
  check_end(fd);
  close(fd);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

static void a_wrong_login_is_refused(void) {
  char address[WG_ENDPOINT_TEXT_LEN];
  int32_t proxy = wg_net_socks5(nets.a, "127.0.0.1:0", "me", "secret", 0, address);
  int fd;
  char got[2], byte;
  CHECK(proxy > 0);
  fd = connect_to(address);
  write_all(fd, "\5\1\0", 3); /* without a login */
  check_answer(fd, "\5\377", 2);
  wait_readable(fd);
  CHECK(recv(fd, &byte, 1, 0) <= 0);
  close(fd);
  fd = present(address, "me", "Secret");
  read_all(fd, got, 2);
  CHECK(got[0] == 1 && got[1] != 0);
  wait_readable(fd);
  CHECK(recv(fd, &byte, 1, 0) <= 0);
  close(fd);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

/* Sends a request, and takes an answer with this status. */
static int ask_http(const char *address, const char *request, const char *expected) {
  char answer[2048] = {0}, status[4] = {0};
  size_t len = 0;
  int fd = connect_to(address);
  CHECK(fd >= 0);
  write_all(fd, request, strlen(request));
  while (len < 4 || memcmp(answer + len - 4, "\r\n\r\n", 4) != 0) {
    CHECK(len < sizeof answer - 1);
    read_all(fd, answer + len++, 1);
  }
  CHECK(strncmp(answer, "HTTP/1.", 7) == 0);
  memcpy(status, answer + 9, 3);
  CHECK_TEXT(status, expected);
  return fd;
}

static void http_passes_connections(int listener) {
  char address[WG_ENDPOINT_TEXT_LEN];
  int32_t proxy = wg_net_http(nets.a, "127.0.0.1:0", "me", "secret", 0, address);
  static const char with_login[] = "CONNECT 10.9.0.2:80 HTTP/1.1\r\nHost: 10.9.0.2:80\r\n"
                                   "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
  int fd, server;
  CHECK(proxy > 0);
  fd = ask_http(address, "CONNECT 10.9.0.2:80 HTTP/1.1\r\nHost: 10.9.0.2:80\r\n\r\n", "407");
  wait_gone(fd);
  close(fd);
  fd = ask_http(address, with_login, "200");
  server = accept_from(nets.b, listener, NULL);
  check_sent(fd, server, "there");
  check_sent(server, fd, "and back");
  close(fd);
  check_end(server);
  close(server);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

/* The process does not ignore SIGPIPE: none comes of clients that have gone. */
static void clients_go_away(int listener) {
  static char block[200000];
  char address[WG_ENDPOINT_TEXT_LEN];
  int32_t proxy = wg_net_socks5(nets.a, NULL, NULL, NULL, 0, address);
  struct sigaction action;
  int i;
  CHECK(proxy > 0);
  CHECK_EQ(sigaction(SIGPIPE, NULL, &action), 0);
  CHECK(action.sa_handler == SIG_DFL);
  for (i = 0; i < 60; i++) {
    int fd = connect_to(address), server;
    write_all(fd, "\5\1\0", 3);
    if (i % 3 == 0) {
      close(fd);
      continue;
    }
    check_answer(fd, "\5\0", 2);
    write_all(fd, "\5\1\0\1\12\11\0\2\0\120", 10);
    server = accept_from(nets.b, listener, NULL);
    (void)send(server, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (i % 3 == 1) CHECK_EQ(shutdown(fd, SHUT_RD), 0);
    close(fd);
    (void)send(server, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    wait_gone(server);
    close(server);
  }
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

/* Answers one HTTP request. */
static void *serves_page(void *argument) {
  static const char page[] = "HTTP/1.0 200 OK\r\nContent-Length: 16\r\n\r\nthrough a tunnel";
  char request[4096];
  size_t len = 0;
  int server = accept_from(nets.b, *(int *)argument, NULL);
  while (len < 4 || memcmp(request + len - 4, "\r\n\r\n", 4) != 0) {
    CHECK(len < sizeof request);
    read_all(server, request + len++, 1);
  }
  write_all(server, page, sizeof page - 1);
  CHECK_EQ(shutdown(server, SHUT_WR), 0);
  wait_gone(server);
  close(server);
  return NULL;
}

/* curl has no proxies, and no .curlrc, but the one that it is given. */
static void curl_gets_a_page(int listener, const char *scheme, int tunnel) {
  char address[WG_ENDPOINT_TEXT_LEN], proxy_text[128], page[64] = {0};
  int32_t proxy = strcmp(scheme, "http") == 0 ? wg_net_http(nets.a, NULL, "me", "secret", 0, address)
                                              : wg_net_socks5(nets.a, NULL, "me", "secret", 0, address);
  const char *argv[] = {"curl", "-q", "-s", "-m", "60", "--noproxy", "", "-x", proxy_text, "http://10.9.0.2/",
                        tunnel ? "-p" : NULL, NULL};
  posix_spawn_file_actions_t actions;
  int ends[2], status = 0, result;
  size_t len = 0;
  ssize_t got;
  pthread_t thread;
  pid_t child;
  CHECK(proxy > 0);
  snprintf(proxy_text, sizeof proxy_text, "%s://me:secret@%s", scheme, address);
  start(&thread, serves_page, &listener);
  CHECK_EQ(pipe(ends), 0);
  CHECK_EQ(fcntl(ends[0], F_SETFD, FD_CLOEXEC), 0);
  CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
  CHECK_EQ(posix_spawn_file_actions_adddup2(&actions, ends[1], 1), 0);
  CHECK_EQ(posix_spawn_file_actions_addclose(&actions, ends[1]), 0);
  result = posix_spawnp(&child, "curl", &actions, NULL, (char *const *)argv, environ);
  CHECK_EQ(result, 0);
  CHECK_EQ(posix_spawn_file_actions_destroy(&actions), 0);
  close(ends[1]);
  while (len < sizeof page - 1 && (got = read(ends[0], page + len, sizeof page - 1 - len)) > 0) len += (size_t)got;
  close(ends[0]);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  CHECK_TEXT(page, "through a tunnel");
  join(thread);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_OK);
}

static int curl_is_there(void) {
  const char *argv[] = {"curl", "--version", NULL};
  posix_spawn_file_actions_t actions;
  pid_t child;
  int status = 1, result;
  CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
  CHECK_EQ(posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0), 0);
  result = posix_spawnp(&child, "curl", &actions, NULL, (char *const *)argv, environ);
  CHECK_EQ(posix_spawn_file_actions_destroy(&actions), 0);
  return result == 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void what_is_wrong_is_refused(void) {
  char address[WG_ENDPOINT_TEXT_LEN];
  struct end without = turn_on(SOCK_DGRAM, "");
  char long_text[300];
  memset(long_text, 'x', sizeof long_text);
  long_text[sizeof long_text - 1] = 0;
  memset(address, 0x55, sizeof address);
  CHECK_FAILS(wg_net_socks5(nets.a, "localhost:1", NULL, NULL, 0, address), WG_ERR_INVALID, "\"localhost:1\"");
  CHECK_FAILS(wg_net_socks5(nets.a, "", NULL, NULL, 0, address), WG_ERR_INVALID, "not an address and a port");
  CHECK_FAILS(wg_net_socks5(nets.a, "127.0.0.1:65536", NULL, NULL, 0, address), WG_ERR_INVALID, "65536");
  CHECK_FAILS(wg_net_socks5(nets.a, "\xff", NULL, NULL, 0, address), WG_ERR_INVALID, "listen is not UTF-8");
  CHECK_FAILS(wg_net_socks5(nets.a, "0.0.0.0:0", "me", "secret", 0, address), WG_ERR_INVALID, "WG_NET_PROXY_REMOTE");
  CHECK_FAILS(wg_net_socks5(nets.a, "0.0.0.0:0", NULL, NULL, WG_NET_PROXY_REMOTE, address), WG_ERR_INVALID,
              "user and password are needed");
  CHECK_FAILS(wg_net_http(nets.a, "[::]:0", NULL, NULL, WG_NET_PROXY_REMOTE, address), WG_ERR_INVALID,
              "user and password are needed");
  CHECK_FAILS(wg_net_http(nets.a, "192.0.2.1:0", "me", "secret", WG_NET_PROXY_REMOTE, address), WG_ERR_NOT_FOUND,
              "not an address of this system");
  CHECK_FAILS(wg_net_http(nets.a, NULL, "me", NULL, 0, address), WG_ERR_INVALID, "not both");
  CHECK_FAILS(wg_net_http(nets.a, NULL, NULL, "secret", 0, address), WG_ERR_INVALID, "not both");
  CHECK_FAILS(wg_net_http(nets.a, NULL, "", "secret", 0, address), WG_ERR_INVALID, "user has 0 bytes");
  CHECK_FAILS(wg_net_http(nets.a, NULL, "me", long_text, 0, address), WG_ERR_INVALID, "password has 299 bytes");
  CHECK_FAILS(wg_net_http(nets.a, NULL, "m:e", "secret", 0, address), WG_ERR_INVALID, "colon");
  CHECK_FAILS(wg_net_http(nets.a, NULL, NULL, NULL, 2, address), WG_ERR_INVALID, "flags is 0x2");
  CHECK_FAILS(wg_net_socks5(without.handle, NULL, NULL, NULL, 0, address), WG_ERR_UNSUPPORTED, "wg_net_options_t");
  CHECK_FAILS(wg_net_socks5(-1, NULL, NULL, NULL, 0, address), WG_ERR_UNKNOWN_HANDLE, "handle -1");
  CHECK_FAILS(wg_net_stop_proxy(nets.a, 0), WG_ERR_NOT_FOUND, "number 0");
  CHECK_FAILS(wg_net_stop_proxy(nets.b, 1), WG_ERR_NOT_FOUND, "number 1");
  CHECK(address[0] == 0x55);
  turn_off(without);
}

/* Nothing of it is left when the tunnel is off. */
static void it_ends_with_the_tunnel(int fds, int tasks) {
  char socks5[WG_ENDPOINT_TEXT_LEN], http[WG_ENDPOINT_TEXT_LEN], byte;
  int listener, client, server, waiting;
  int32_t proxy;
  nets = turn_nets_on();
  listener = listen_at(nets.b, "tcp", ":80");
  CHECK((proxy = wg_net_socks5(nets.a, NULL, NULL, NULL, 0, socks5)) > 0);
  CHECK(wg_net_http(nets.a, NULL, NULL, NULL, 0, http) > 0);
  client = connect_to(socks5);
  write_all(client, "\5\1\0", 3);
  check_answer(client, "\5\0", 2);
  server = ask_socks5(client, listener);
  waiting = connect_to(http);
  CHECK_EQ(wg_turn_off(nets.a), WG_OK);
  CHECK_EQ(connect_to(socks5), -1);
  CHECK_EQ(connect_to(http), -1);
  wait_readable(client);
  CHECK(recv(client, &byte, 1, 0) <= 0);
  wait_readable(waiting);
  CHECK(recv(waiting, &byte, 1, 0) <= 0);
  wait_gone(server);
  CHECK_EQ(wg_net_stop_proxy(nets.a, proxy), WG_ERR_UNKNOWN_HANDLE);
  close(client);
  close(waiting);
  close(server);
  close(listener);
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

int main(void) {
  int fds = open_fds(), tasks = threads(), listener, i;
  nets = turn_nets_on();
  listener = listen_at(nets.b, "tcp", ":80");
  what_is_wrong_is_refused();
  socks5_passes_connections(listener);
  bind_is_refused();
  a_wrong_login_is_refused();
  http_passes_connections(listener);
  clients_go_away(listener);
  if (curl_is_there()) {
    curl_gets_a_page(listener, "socks5h", 0);
    curl_gets_a_page(listener, "http", 0);
    curl_gets_a_page(listener, "http", 1); /* by CONNECT */
  } else {
    printf("skipped: there is no curl\n");
  }
  close(listener);
  turn_nets_off(nets);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  for (i = 0; i < 5; i++) it_ends_with_the_tunnel(fds, tasks);
  return 0;
}
