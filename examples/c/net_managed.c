/*
 * A tunnel that another program manages, over the VPN manager protocol, with peers that this app knows.
 *
 *     cargo build --release -p wg-embed-capi --features control
 *     cc -std=c99 -O2 -Iinclude examples/c/net_managed.c -o net_managed \
 *         -Ltarget/release -lwg_embed -Wl,-rpath,target/release
 *     ./net_managed wg0.conf 3 4           serves a manager that has started it with these descriptors, until the end;
 *                                          SIGHUP has the file read again, and the manager shown what is different
 *     ./net_managed                        without arguments: a manager in this program starts and stops a tunnel
 */
#define _POSIX_C_SOURCE 200809L
#include "wg_embed.h"

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

/* Where this app has its peers from: a real one would ask the server that the manager names, with its token. */
static const char *path;

static wg_result_t update(int32_t manager) {
  static char file[1 << 20];
  wg_manager_state_t state = WG_MANAGER_STATE_INIT;
  wg_result_t result;
  FILE *from = path == NULL ? NULL : fopen(path, "rb");
  if (from != NULL) {
    state.conf_len = fread(file, 1, sizeof file, from);
    fclose(from);
  } else {
    strcpy(file, "[Interface]\nAddress = 10.0.0.1/24\n"
                 "[Peer]\n# Name = laptop\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n"
                 "AllowedIPs = 10.0.0.2/32\n");
    state.conf_len = strlen(file);
  }
  state.conf = file;
  state.name = "example";
  result = wg_manager_update(manager, &state);
  memset(file, 0, sizeof file); /* there are keys in it */
  return result;
}

/* Each start: the same function gives the peers here and later on. */
static int32_t start(void *user, int32_t manager, const wg_manager_request_t *request, char *reason, size_t size) {
  (void)user;
  printf("a manager starts a tunnel for %s\n", request->url);
  if (update(manager) == WG_OK) return 0;
  snprintf(reason, size, "%s", wg_last_error());
  return 1;
}

static volatile sig_atomic_t hung_up;

static void hang_up(int signal) {
  (void)signal;
  hung_up = 1;
}

static void serve(int read_fd, int write_fd) {
  wg_manager_options_t options = WG_MANAGER_OPTIONS_INIT;
  wg_result_t result;
  int32_t manager;
  options.start = start;
  options.network = WG_MANAGER_USERSPACE; /* without root; WG_MANAGER_AUTO has an interface where it can */
  manager = wg_manager_serve(read_fd, write_fd, &options);
  if (manager < 0) fail("wg_manager_serve");
  while ((result = wg_manager_wait(manager, 500)) == WG_ERR_TIMED_OUT) {
    if (!hung_up) continue;
    hung_up = 0;
    if (update(manager) != WG_OK) fprintf(stderr, "%s stays as it was: %s\n", path, wg_last_error());
  }
  if (result != WG_OK) fprintf(stderr, "the manager: %s\n", wg_last_error());
  if (wg_manager_stop(manager) != WG_OK) fail("wg_manager_stop");
}

int main(int argc, char **argv) {
  /* What a manager writes: its header, a StartRequest and a StopRequest. */
  static const char requests[] = "codervpn manager 1.3\n"
                                 "\0\0\0\x10\x0a\x02\x08\x01\x22\x0a\x12\x05" "app:1" "\x1a\x01t"
                                 "\0\0\0\x06\x0a\x02\x08\x02\x2a\0";
  char answers[4096], first[] = "codervpn tunnel 1.3\n";
  ssize_t len, total = 0;
  int pair[2];
  if (argc == 4) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = hang_up;
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    path = argv[1];
    serve(atoi(argv[2]), atoi(argv[3]));
    return 0;
  }
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 1;
  if (write(pair[1], requests, sizeof requests - 1) != (ssize_t)sizeof requests - 1) return 1;
  serve(pair[0], pair[0]);
  close(pair[0]);
  while ((len = read(pair[1], answers + total, sizeof answers - (size_t)total)) > 0) total += len;
  printf("the tunnel has answered with %d bytes\n", (int)total);
  close(pair[1]);
  return total < (ssize_t)sizeof first || memcmp(answers, first, sizeof first - 1) != 0;
}
