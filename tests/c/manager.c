/* Tunnels that a program manages: this test is that program, over two pipes. */
#include "check.h"

#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

enum { LOG = 2, PEERS = 3, SETTINGS = 4, STARTED = 5, STOPPED = 6, ROOM = 1 << 16 };

/* A manager's ends of the two pipes, and the tunnel's. */
struct manager {
  int to, from, tunnel_from, tunnel_to;
  uint64_t next_id;
  int log_lines;      /* that were received */
  int refuses;        /* whether network settings are refused */
  char settings[512]; /* the last ones, as they were received */
  size_t settings_len;
};

static struct manager begin(const char *header) {
  struct manager m;
  int down[2], up[2];
  CHECK_EQ(pipe(down), 0);
  CHECK_EQ(pipe(up), 0);
  memset(&m, 0, sizeof m);
  m.tunnel_from = down[0];
  m.to = down[1];
  m.from = up[0];
  m.tunnel_to = up[1];
  m.next_id = 1;
  CHECK_EQ(write(m.to, header, strlen(header)), (long)strlen(header));
  return m;
}

/* Whoever reads from a pipe sees what was done before it was written to. ThreadSanitizer does not know that of the
   library, which calls the system without the C library. */
static void pass(void) {
  static int passed;
  __sync_fetch_and_add(&passed, 1);
}

/* The tunnel works with duplicates. */
static void give_away(struct manager *m) {
  CHECK(is_open(m->tunnel_from) && is_open(m->tunnel_to));
  CHECK_EQ(close(m->tunnel_from), 0);
  CHECK_EQ(close(m->tunnel_to), 0);
}

static void end(struct manager *m) {
  CHECK_EQ(close(m->to), 0);
  CHECK_EQ(close(m->from), 0);
}

static const char OUR_HEADER[] = "codervpn manager 1.3\n";
static const char THEIR_HEADER[] = "codervpn tunnel 1.3\n";

/* Returns 0 at the end of the stream. */
static int read_all(int fd, void *to, size_t len) {
  uint8_t *at = to;
  while (len > 0) {
    struct pollfd ready = {0, POLLIN, 0};
    ssize_t got;
    ready.fd = fd;
    CHECK_EQ(poll(&ready, 1, 120000), 1);
    got = read(fd, at, len);
    CHECK(got >= 0);
    pass();
    if (got == 0) return 0;
    at += got;
    len -= (size_t)got;
  }
  return 1;
}

static void check_header(struct manager *m) {
  char header[sizeof THEIR_HEADER] = {0};
  CHECK(read_all(m->from, header, sizeof THEIR_HEADER - 1));
  CHECK_TEXT(header, THEIR_HEADER);
}

/* Protobuf: a number, a field of bytes, and one that is a number. */
static size_t put_varint(uint8_t *to, uint64_t value) {
  size_t len = 0;
  do {
    to[len++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
    value >>= 7;
  } while (value != 0);
  return len;
}

static size_t put_bytes(uint8_t *to, int field, const void *bytes, size_t len) {
  size_t head = put_varint(to, (uint64_t)field << 3 | 2);
  head += put_varint(to + head, len);
  memcpy(to + head, bytes, len);
  return head + len;
}

static size_t put_text(uint8_t *to, int field, const char *text) { return put_bytes(to, field, text, strlen(text)); }

static size_t put_number(uint8_t *to, int field, uint64_t value) {
  size_t head = put_varint(to, (uint64_t)field << 3);
  return head + put_varint(to + head, value);
}

static uint64_t get_varint(const uint8_t **at, const uint8_t *end) {
  uint64_t value = 0;
  int shift = 0;
  for (;;) {
    CHECK(*at < end && shift < 64);
    value |= (uint64_t)(**at & 0x7f) << shift;
    shift += 7;
    if ((*(*at)++ & 0x80) == 0) return value;
  }
}

/* Sends a message: the numbers of its request, and a body. */
static void put_message(struct manager *m, int rpc_field, uint64_t id, int field, const uint8_t *body, size_t len) {
  uint8_t message[4096], rpc[16];
  size_t at = 4;
  at += put_bytes(message + at, 1, rpc, put_number(rpc, rpc_field, id));
  at += put_bytes(message + at, field, body, len);
  message[0] = message[1] = 0;
  message[2] = (uint8_t)((at - 4) >> 8);
  message[3] = (uint8_t)(at - 4);
  /* A response may come when the tunnel has stopped, and reads no more. */
  pass();
  CHECK(write(m->to, message, at) == (long)at || (rpc_field == 2 && errno == EPIPE));
}

static void request(struct manager *m, int field, const uint8_t *body, size_t len) {
  put_message(m, 1, m->next_id++, field, body, len);
}

struct message {
  uint64_t id, response_to;
  int kind;
  uint8_t bytes[ROOM], *body;
  size_t len;
};

/* Returns 0 at the end of the stream. */
static int receive(struct manager *m, struct message *message) {
  uint8_t size[4];
  const uint8_t *at, *end;
  size_t len;
  message->id = message->response_to = 0;
  message->kind = 0;
  if (!read_all(m->from, size, sizeof size)) return 0;
  len = (size_t)size[0] << 24 | (size_t)size[1] << 16 | (size_t)size[2] << 8 | size[3];
  CHECK(len <= ROOM && read_all(m->from, message->bytes, len));
  at = message->bytes;
  end = at + len;
  while (at < end) {
    uint64_t key = get_varint(&at, end), size_of_field = get_varint(&at, end);
    CHECK((key & 7) == 2 && size_of_field <= (uint64_t)(end - at));
    if (key >> 3 == 1) {
      const uint8_t *rpc = at, *rpc_end = at + size_of_field;
      while (rpc < rpc_end) {
        uint64_t which = get_varint(&rpc, rpc_end), value = get_varint(&rpc, rpc_end);
        if (which >> 3 == 1) message->id = value;
        else message->response_to = value;
      }
    } else {
      message->kind = (int)(key >> 3);
      message->body = message->bytes + (at - message->bytes);
      message->len = (size_t)size_of_field;
    }
    at += size_of_field;
  }
  return 1;
}

/* Answers what is asked meanwhile, and returns the next message of a kind. */
static void expect(struct manager *m, int kind, struct message *message) {
  for (;;) {
    CHECK(receive(m, message));
    if (message->kind == LOG) m->log_lines++;
    if (message->kind == SETTINGS) {
      uint8_t answer[64];
      size_t len = m->refuses ? put_text(answer, 2, "no such network") : put_number(answer, 1, 1);
      CHECK(message->len <= sizeof m->settings);
      memcpy(m->settings, message->body, message->len);
      m->settings_len = message->len;
      put_message(m, 2, message->id, 3, answer, len);
    }
    if (message->kind == kind) return;
  }
}

static int contains(const void *bytes, size_t len, const char *text) {
  return memmem(bytes, len, text, strlen(text)) != NULL;
}

static int has(const struct message *message, const char *text) {
  return contains(message->body, message->len, text);
}

/* Waits for a message of a kind that has a text. */
static void expect_text(struct manager *m, int kind, const char *text, struct message *message) {
  do expect(m, kind, message);
  while (!has(message, text));
}

static void send_start(struct manager *m, const char *url, int tun) {
  uint8_t body[2048], header[64];
  size_t len = 0, header_len = 0;
  if (tun > 0) len += put_number(body + len, 1, (uint64_t)tun);
  len += put_text(body + len, 2, url);
  len += put_text(body + len, 3, "a token");
  header_len += put_text(header, 1, "X-Header");
  header_len += put_text(header + header_len, 2, "its value");
  len += put_bytes(body + len, 4, header, header_len);
  len += put_text(body + len, 5, "a device");
  len += put_text(body + len, 6, "Linux");
  len += put_text(body + len, 7, "0.7.0");
  request(m, 4, body, len);
}

/* The response: its error, or "" if the tunnel runs. */
static const char *start_it(struct manager *m, const char *url, int tun) {
  static struct message message;
  send_start(m, url, tun);
  expect(m, STARTED, &message);
  CHECK_EQ(message.response_to, m->next_id - 1);
  if (message.len == 2 && message.body[0] == 0x08 && message.body[1] == 1) return "";
  CHECK(message.len > 2 && message.body[0] == 0x12);
  message.body[message.len] = 0; /* the end of the room is far away */
  return (const char *)message.body + (message.body[1] < 0x80 ? 2 : 3);
}

static void stop_it(struct manager *m) {
  static struct message message;
  request(m, 5, (const uint8_t *)"", 0);
  expect(m, STOPPED, &message);
  CHECK_EQ(message.response_to, m->next_id - 1);
  CHECK(!receive(m, &message)); /* nothing follows it */
}

static char private_a[WG_KEY_BASE64_LEN], public_b[WG_KEY_BASE64_LEN], public_a[WG_KEY_BASE64_LEN];

static const char *base64(const char *hex, char *text) {
  uint8_t key[WG_KEY_LEN];
  key_bytes(hex, key);
  CHECK_EQ(wg_keys_to_base64(key, text), WG_OK);
  return text;
}

/* A configuration with one or two peers. */
static const char *conf_of(const char *name, const char *second, int port) {
  static char text[1024];
  int len = snprintf(text, sizeof text,
                     "[Interface]\nPrivateKey = %s\nAddress = 10.9.0.1/24\nMTU = 1280\nDNS = 10.9.0.53\n"
                     "[Peer]\n# Name = %s\nPublicKey = %s\nEndpoint = 127.0.0.1:%d\nAllowedIPs = 10.9.0.2/32\n",
                     private_a, name, public_b, port);
  if (second != NULL)
    snprintf(text + len, sizeof text - (size_t)len, "[Peer]\n# Name = %s\nPublicKey = %s\nAllowedIPs = 10.9.0.3/32\n",
             second, public_a);
  return text;
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  CHECK(file != NULL);
  CHECK(fputs(text, file) >= 0);
  CHECK_EQ(fclose(file), 0);
}

static void check_left(int fds, int tasks) {
  int i;
  check_threads(tasks);
  /* A thread that was not joined closes its descriptors before it ends. */
  for (i = 0; i < 6000 && open_fds() != fds; i++) sleep_ms(5);
  CHECK_EQ(open_fds(), fds);
}

static void each_step_has_its_code(void) {
  struct manager m = begin(OUR_HEADER);
  struct rlimit limit, less;
  int places[3], i;
  CHECK_EQ(OpenTunnel(-1, m.tunnel_to), -2);
  CHECK(strstr(wg_last_error(), "descriptor -1 is not open") != NULL);
  CHECK_EQ(OpenTunnel(m.tunnel_from, 12345), -3);
  /* With room for two descriptors there is none for a pipe. */
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  for (i = 0; i < 3; i++) CHECK((places[i] = dup(0)) > 0);
  for (i = 0; i < 3; i++) CHECK_EQ(close(places[i]), 0);
  less = limit;
  less.rlim_cur = (rlim_t)places[1] + 1;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &less), 0);
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), -4);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  give_away(&m);
  end(&m);

  m = begin("codervpn client 1.3\n");
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), -5);
  CHECK(strstr(wg_last_error(), "unexpected role") != NULL);
  check_header(&m); /* it is sent all the same */
  give_away(&m);
  end(&m);

  m = begin("codervpn manager");
  CHECK_EQ(close(m.to), 0);
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), -5);
  give_away(&m);
  CHECK_EQ(close(m.from), 0);
}

static void a_file_is_served_and_followed(void) {
  char directory[] = "/tmp/wg-embed-manager-XXXXXX", path[64], url[80];
  struct manager m = begin(OUR_HEADER);
  struct message *message = malloc(sizeof *message);
  int tun[2];
  CHECK(message != NULL && mkdtemp(directory) != NULL);
  snprintf(path, sizeof path, "%s/home.conf", directory);
  snprintf(url, sizeof url, "file://%s", path);
  write_file(path, conf_of("laptop", NULL, 9));
  make_pair(SOCK_DGRAM, tun);
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), 0);
  give_away(&m);
  check_header(&m);
  CHECK(strstr(start_it(&m, "file:///no/such/file.conf", tun[0]), "failed to start connection") != NULL);
  CHECK_TEXT(start_it(&m, url, tun[0]), "");
  CHECK_EQ(close(tun[0]), 0); /* the tunnel has a duplicate */
  expect(&m, PEERS, message);
  CHECK(has(message, "home") && has(message, "laptop") && has(message, "10.9.0.2"));
  write_file(path, conf_of("laptop", "desktop", 9));
  expect_text(&m, PEERS, "desktop", message);
  stop_it(&m);
  end(&m);
  CHECK_EQ(close(tun[1]), 0);
  CHECK_EQ(unlink(path), 0);
  CHECK_EQ(rmdir(directory), 0);
  free(message);
}

static void a_manager_that_is_gone_ends_it(void) {
  struct manager m = begin(OUR_HEADER);
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), 0);
  give_away(&m);
  check_header(&m);
  end(&m);
}

/* The app that knows the peers. */
struct app {
  int32_t manager, other;
  int starts, destroyed, protected, lines, port;
  int refuses;          /* the next start */
  const char *conf;     /* which a start gives, or NULL */
  int waits, may_leave; /* inside a start */
  int configured, undone;
  char settings[256];
};

static void destroys(void *user) { __sync_fetch_and_add(&((struct app *)user)->destroyed, 1); }

static wg_result_t give(int32_t manager, const char *conf) {
  wg_manager_state_t state = WG_MANAGER_STATE_INIT;
  state.conf = conf;
  state.conf_len = strlen(conf);
  return wg_manager_update(manager, &state);
}

static int32_t starts(void *user, int32_t manager, const wg_manager_request_t *request, char *reason, size_t size) {
  struct app *app = user;
  pass();
  CHECK_EQ(request->struct_size, (long long)sizeof *request);
  CHECK_TEXT(request->url, "app://home");
  CHECK_TEXT(request->token, "a token");
  CHECK_TEXT(request->device_id, "a device");
  CHECK_TEXT(request->device_os, "Linux");
  CHECK_TEXT(request->version, "0.7.0");
  CHECK_EQ(request->header_count, 1);
  CHECK_TEXT(request->headers[0].name, "X-Header");
  CHECK_TEXT(request->headers[0].value, "its value");
  CHECK_EQ(request->tun_fd, -1);
  CHECK_EQ(size, WG_MANAGER_REASON_LEN);
  CHECK_EQ(wg_manager_stop(manager), WG_ERR_BUSY);
  CHECK_EQ(wg_manager_wait(manager, 0), WG_ERR_BUSY);
  CHECK_EQ(OpenTunnel(0, 1), -5);
  CHECK_EQ(wg_manager_update(manager, NULL), WG_ERR_NULL);
  if (app->other != 0) CHECK_EQ(give(app->other, app->conf), WG_ERR_BUSY);
  __sync_fetch_and_add(&app->starts, 1);
  while (app->waits && !get_int(&app->may_leave)) sleep_ms(1);
  if (app->refuses) {
    snprintf(reason, size, "not today");
    app->refuses = 0;
    pass();
    return 1;
  }
  if (app->conf != NULL) CHECK_EQ(give(manager, app->conf), WG_OK);
  pass();
  return 0;
}

static int32_t protects(void *user, int32_t fd, uint32_t family) {
  struct app *app = user;
  pass();
  CHECK(is_open(fd) && (family == WG_IPV4 || family == WG_IPV6));
  CHECK_EQ(give(app->manager, ""), WG_ERR_BUSY);
  __sync_fetch_and_add(&app->protected, 1);
  pass();
  return 0;
}

static void logs(void *user, int32_t handle, int32_t level, const char *text) {
  (void)level, (void)text;
  CHECK(handle > 0);
  __sync_fetch_and_add(&((struct app *)user)->lines, 1);
}

static wg_manager_options_t options_of(struct app *app) {
  wg_manager_options_t options = WG_MANAGER_OPTIONS_INIT;
  options.start = starts;
  options.protect = protects;
  options.log = logs;
  options.start_user = options.protect_user = options.log_user = options.resolve_user = app;
  options.start_destroy = options.protect_destroy = options.log_destroy = options.resolve_destroy = destroys;
  options.network = WG_MANAGER_USERSPACE;
  options.settings = WG_MANAGER_ASK;
  options.log_level = WG_LOG_DEBUG;
  options.manager_log_level = WG_LOG_DEBUG;
  return options;
}

static int32_t serve(struct manager *m, const wg_manager_options_t *options) {
  int32_t manager = wg_manager_serve(m->tunnel_from, m->tunnel_to, options);
  CHECK(manager > 0);
  give_away(m);
  check_header(m);
  return manager;
}

static void peers_come_from_the_app(void) {
  struct manager m = begin(OUR_HEADER);
  struct message *message = malloc(sizeof *message);
  struct app app = {0};
  wg_manager_options_t options = options_of(&app);
  static const char NEVER[] = "\x80\x92\xb8\xc3\x98\xfe\xff\xff\xff\x01";
  char conf[1024];
  struct end far = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\nlisten_port=0\n");
  unsigned char packet[2000];
  CHECK(message != NULL);
  CHECK_EQ(wg_set_config(far.handle, "public_key=" PUBLIC_A "\nallowed_ip=10.9.0.1/32\n"), WG_OK);
  strcpy(conf, conf_of("laptop", NULL, listen_port(far.handle)));
  options.update_interval_ms = 100;
  app.manager = serve(&m, &options);
  CHECK_EQ(app.destroyed, 1); /* there is no resolver */
  app.refuses = 1;
  CHECK(strstr(start_it(&m, "app://home", -1), "failed to start connection: not today") != NULL);
  CHECK(strstr(start_it(&m, "app://home", -1), "the app has given no configuration") != NULL);
  app.conf = conf;
  m.refuses = 1;
  CHECK(strstr(start_it(&m, "app://home", -1), "network settings failed: no such network") != NULL);
  m.refuses = 0;
  CHECK_EQ(wg_manager_wait(app.manager, 0), WG_ERR_TIMED_OUT);
  CHECK_TEXT(start_it(&m, "app://home", -1), "");
  CHECK_EQ(app.starts, 4);
  CHECK(contains(m.settings, m.settings_len, "10.9.0.1") && contains(m.settings, m.settings_len, "10.9.0.53"));
  CHECK(get_int(&app.protected) > 0);
  expect_text(&m, PEERS, "laptop", message);
  /* It is pinged, which takes a handshake. */
  CHECK(recv(far.app, packet, sizeof packet, 0) >= 28);
  CHECK(packet[0] >> 4 == 4 && packet[9] == 1 && packet[20] == 8 && packet[15] == 1 && packet[19] == 2);
  do expect_text(&m, PEERS, "laptop", message);
  while (has(message, NEVER));

  /* Changes are deltas, and what is the same is none. */
  strcpy(conf, conf_of("laptop", "desktop", listen_port(far.handle)));
  CHECK_EQ(give(app.manager, conf), WG_OK);
  CHECK_EQ(give(app.manager, conf), WG_OK);
  expect_text(&m, PEERS, "desktop", message);
  CHECK_FAILS(give(app.manager, "[Interface]\nPrivateKey = x\n"), WG_ERR_INVALID, "line 2");
  CHECK_EQ(wg_manager_update(app.manager, NULL), WG_ERR_NULL);
  stop_it(&m);
  CHECK_EQ(wg_manager_wait(app.manager, -1), WG_OK);
  CHECK_FAILS(give(app.manager, conf), WG_ERR_CLOSED, "has ended");
  CHECK(m.log_lines > 0 && get_int(&app.lines) > 0);
  CHECK_EQ(app.destroyed, 1);
  CHECK_EQ(wg_manager_stop(app.manager), WG_OK);
  CHECK_EQ(app.destroyed, 4);
  CHECK_EQ(wg_manager_stop(app.manager), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_manager_wait(app.manager, 0), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(give(app.manager, conf), WG_ERR_UNKNOWN_HANDLE);
  turn_off(far);
  end(&m);
  free(message);
}

static void agents_and_settings_may_be_the_apps(void) {
  struct manager m = begin(OUR_HEADER);
  struct message *message = malloc(sizeof *message);
  struct app app = {0};
  wg_manager_options_t options = options_of(&app);
  wg_manager_state_t state = WG_MANAGER_STATE_INIT;
  wg_manager_workspace_t workspaces[2] = {{0}};
  wg_manager_agent_t agents[2] = {{0}};
  char conf[1024];
  int i;
  CHECK(message != NULL);
  strcpy(conf, conf_of("laptop", NULL, 9));
  for (i = 0; i < 2; i++) {
    memset(workspaces[i].id, 'w' + i, WG_MANAGER_ID_LEN);
    workspaces[i].name = i == 0 ? "office" : "lab";
    workspaces[i].status = WG_MANAGER_RUNNING;
    memset(agents[i].id, 'a' + i, WG_MANAGER_ID_LEN);
    memset(agents[i].workspace, 'w' + i, WG_MANAGER_ID_LEN);
    agents[i].name = i == 0 ? "printer" : "robot";
  }
  agents[0].fqdns = "printer.office.example, p.example";
  agents[0].addresses = "10.9.0.2,fd09::2";
  agents[1].ping = "";
  key_bytes(PUBLIC_B, agents[0].public_key);
  state.conf = conf;
  state.conf_len = strlen(conf);
  state.settings = "address=10.9.0.1/24\nroute=10.77.0.0/16 via 10.9.0.254\nmatch=office.example\nmtu=1300\n";
  state.workspaces = workspaces;
  state.workspace_count = 2;
  state.agents = agents;
  state.agent_count = 2;
  app.manager = serve(&m, &options);
  CHECK_EQ(wg_manager_update(app.manager, &state), WG_OK); /* before the start */
  CHECK_TEXT(start_it(&m, "app://home", -1), "");
  CHECK(contains(m.settings, m.settings_len, "10.77.0.0") && contains(m.settings, m.settings_len, "10.9.0.254"));
  CHECK(contains(m.settings, m.settings_len, "office.example"));
  CHECK(!contains(m.settings, m.settings_len, "10.9.0.53"));
  expect(&m, PEERS, message);
  CHECK(has(message, "office") && has(message, "lab") && has(message, "printer.office.example."));
  CHECK(has(message, "fd09::2") && has(message, "robot") && !has(message, "laptop"));
  /* One is gone. */
  state.agent_count = 1;
  state.workspace_count = 1;
  CHECK_EQ(wg_manager_update(app.manager, &state), WG_OK);
  expect_text(&m, PEERS, "lab", message);
  CHECK(has(message, "robot") && !has(message, "printer"));

  /* What is invalid changes nothing. */
  state.agent_count = 2;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "agents[1]: its workspace is not in");
  memcpy(&agents[1], &agents[0], sizeof agents[0]);
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "agents[1]: its id is that of another");
  state.agent_count = 1;
  state.workspace_count = 2;
  memcpy(workspaces[1].id, workspaces[0].id, WG_MANAGER_ID_LEN);
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "workspaces[1]: its id");
  workspaces[0].status = 11;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "workspaces[0]: status is 11");
  state.workspace_count = 1;
  workspaces[0].status = WG_MANAGER_STOPPED;
  agents[0].name = NULL;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_NULL, "agents[0]: name is NULL");
  agents[0].name = "printer";
  agents[0].addresses = "10.9.0.2,x";
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "\"x\" is not an IP address");
  agents[0].addresses = NULL;
  state.settings = "mtu=1280\nmtu=x\n";
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "settings: line 2: mtu");
  state.settings = NULL;
  state.agents = NULL;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_NULL, "agents is NULL");
  state.agent_count = 0;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_NULL, "agents is NULL");
  state.conf = NULL;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_NULL, "conf is NULL");
  state.struct_size = 1;
  CHECK_FAILS(wg_manager_update(app.manager, &state), WG_ERR_INVALID, "struct_size is 1");
  CHECK_EQ(wg_manager_stop(app.manager), WG_OK);
  CHECK_EQ(app.destroyed, 4);
  while (receive(&m, message)) {} /* up to the end of the stream */
  end(&m);
  free(message);
}

static void *stops(void *manager) {
  CHECK_EQ(wg_manager_stop(*(int32_t *)manager), WG_OK);
  return NULL;
}

static void a_stop_waits_for_the_app(void) {
  struct manager m = begin(OUR_HEADER);
  struct app app = {0};
  wg_manager_options_t options = options_of(&app);
  pthread_t thread;
  int i;
  app.waits = 1;
  app.conf = conf_of("laptop", NULL, 9);
  app.manager = serve(&m, &options);
  send_start(&m, "app://home", -1);
  for (i = 0; i < TRIES && get_int(&app.starts) == 0; i++) sleep_ms(1);
  start(&thread, stops, &app.manager);
  sleep_ms(50);
  CHECK_EQ(get_int(&app.destroyed), 1);
  __atomic_store_n(&app.may_leave, 1, __ATOMIC_SEQ_CST);
  join(thread);
  CHECK_EQ(app.destroyed, 4);
  end(&m);
}

static void what_is_wrong_is_an_error(void) {
  struct manager m = begin(OUR_HEADER), other;
  struct app app = {0};
  wg_manager_options_t options = options_of(&app);
  int32_t manager;
  CHECK_EQ(wg_manager_serve(-1, m.tunnel_to, &options), WG_ERR_INVALID);
  CHECK_EQ(app.destroyed, 4);
  CHECK_EQ(wg_manager_serve(m.tunnel_from, 12345, &options), WG_ERR_INVALID);
  options.network = 3;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "network is 3");
  options.network = 0;
  options.settings = 3;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "settings is 3");
  options.settings = 0;
  options.flags = 1;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "flags is not 0");
  options.flags = 0;
  options.log_level = 6;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "log level 6");
  options.log_level = WG_LOG_INHERIT;
  options.manager_log_level = WG_LOG_INHERIT;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "log level -1");
  options.manager_log_level = WG_LOG_OFF;
  options.interface_name = "\xff";
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "interface_name is not UTF-8");
  options.interface_name = NULL;
  CHECK_EQ(app.destroyed, 4 * 8);
  options.struct_size = 7;
  CHECK_FAILS(wg_manager_serve(m.tunnel_from, m.tunnel_to, &options), WG_ERR_INVALID, "struct_size is 7");
  CHECK_EQ(app.destroyed, 4 * 8);
  options.struct_size = sizeof options;
  /* With files in place of an app there is nothing to update. NULL stands for all defaults. */
  manager = wg_manager_serve(m.tunnel_from, m.tunnel_to, NULL);
  CHECK(manager > 0);
  give_away(&m);
  CHECK_FAILS(give(manager, conf_of("laptop", NULL, 9)), WG_ERR_UNSUPPORTED, "no start");
  /* It is no tunnel, and a tunnel is no manager. */
  CHECK_EQ(wg_turn_off(manager), WG_ERR_UNKNOWN_HANDLE);

  /* The ways in which a stream does not begin or end well. */
  other = begin("what?\n");
  CHECK_EQ(wg_manager_serve(other.tunnel_from, other.tunnel_to, NULL), WG_ERR_PROTOCOL);
  give_away(&other);
  end(&other);
  other = begin("codervpn");
  options.handshake_timeout_ms = 20;
  CHECK_EQ(wg_manager_serve(other.tunnel_from, other.tunnel_to, &options), WG_ERR_TIMED_OUT);
  CHECK_EQ(close(other.to), 0);
  CHECK_EQ(wg_manager_serve(other.tunnel_from, other.tunnel_to, NULL), WG_ERR_CLOSED);
  give_away(&other);
  CHECK_EQ(close(other.from), 0);
  other = begin("codervpn manager 1.3\n\xff\xff\xff\xff");
  options.handshake_timeout_ms = 0;
  app.manager = wg_manager_serve(other.tunnel_from, other.tunnel_to, &options);
  CHECK(app.manager > 0);
  CHECK_EQ(wg_manager_wait(app.manager, -1), WG_ERR_PROTOCOL);
  CHECK_EQ(wg_manager_stop(app.manager), WG_OK);
  give_away(&other);
  end(&other);
  end(&m);
  CHECK_EQ(wg_manager_wait(manager, -1), WG_OK);
  CHECK_EQ(wg_manager_stop(manager), WG_OK);
}

static int32_t configures(void *user, int32_t manager, const char *name, const char *settings, char *reason,
                          size_t size) {
  struct app *app = user;
  pass();
  CHECK(manager > 0 && size == WG_MANAGER_REASON_LEN);
  CHECK_TEXT(name, "wg-c-manager");
  if (settings == NULL) {
    app->undone++;
    pass();
    return 0;
  }
  if (app->configured++ == 0) {
    snprintf(reason, size, "no network yet");
    pass();
    return -1;
  }
  snprintf(app->settings, sizeof app->settings, "%s", settings);
  pass();
  return 0;
}

/* Enters a network namespace of its own, in which interfaces can be made. Returns 0 if it cannot. */
static int may_make_interfaces(const char *test) {
  int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  int may = tun >= 0 && unshare(CLONE_NEWNET) == 0;
  if (!may) printf("skipped %s: no /dev/net/tun, or no right to a network namespace\n", test);
  if (tun >= 0) close(tun);
  return may;
}

static void the_app_configures_the_system(void) {
  struct manager m;
  struct app app = {0};
  wg_manager_options_t options = options_of(&app);
  if (!may_make_interfaces("the app configures the system")) return;
  m = begin(OUR_HEADER);
  app.conf = conf_of("laptop", NULL, 9);
  options.network = WG_MANAGER_INTERFACE;
  options.settings = WG_MANAGER_OWN;
  options.interface_name = "wg-c-manager";
  options.configure = configures;
  options.configure_user = &app;
  options.configure_destroy = destroys;
  app.manager = serve(&m, &options);
  CHECK(strstr(start_it(&m, "app://home", -1), "no network yet") != NULL);
  CHECK_TEXT(start_it(&m, "app://home", -1), "");
  CHECK_TEXT(app.settings,
             "address=10.9.0.1/24\nroute=10.9.0.2/32\nmtu=1280\ndns=10.9.0.53\nmatch=\nmatch_only=true\n");
  CHECK_EQ(app.undone, 0);
  stop_it(&m);
  CHECK_EQ(wg_manager_stop(app.manager), WG_OK);
  CHECK_EQ(app.configured, 2);
  CHECK_EQ(app.undone, 1);
  CHECK_EQ(app.destroyed, 5);
  end(&m);
}

/* The manager gives no TUN, and is asked when there is an interface. */
static void the_manager_configures_our_interface(void) {
  char directory[] = "/tmp/wg-embed-manager-XXXXXX", path[64], url[80];
  struct manager m;
  struct message *message = malloc(sizeof *message);
  if (!may_make_interfaces("the manager configures our interface")) {
    free(message);
    return;
  }
  m = begin(OUR_HEADER);
  CHECK(message != NULL && mkdtemp(directory) != NULL);
  snprintf(path, sizeof path, "%s/home.conf", directory);
  snprintf(url, sizeof url, "file://%s", path);
  write_file(path, conf_of("laptop", NULL, 9));
  CHECK_EQ(OpenTunnel(m.tunnel_from, m.tunnel_to), 0);
  give_away(&m);
  check_header(&m);
  m.refuses = 1;
  CHECK(strstr(start_it(&m, url, -1), "network settings failed: no such network") != NULL);
  CHECK_EQ(if_nametoindex("wg-vpn0"), 0);
  m.refuses = 0;
  send_start(&m, url, -1);
  expect(&m, SETTINGS, message);
  CHECK(if_nametoindex("wg-vpn0") != 0);
  CHECK(contains(m.settings, m.settings_len, "10.9.0.53"));
  expect(&m, STARTED, message);
  CHECK(message->len == 2 && message->body[0] == 0x08 && message->body[1] == 1);
  stop_it(&m);
  CHECK_EQ(if_nametoindex("wg-vpn0"), 0);
  end(&m);
  CHECK_EQ(unlink(path), 0);
  CHECK_EQ(rmdir(directory), 0);
  free(message);
}

int main(void) {
  static void (*const tests[])(void) = {
      each_step_has_its_code,  a_file_is_served_and_followed,       a_manager_that_is_gone_ends_it,
      peers_come_from_the_app, agents_and_settings_may_be_the_apps, a_stop_waits_for_the_app,
      what_is_wrong_is_an_error, the_app_configures_the_system, the_manager_configures_our_interface,
  };
  size_t i;
  signal(SIGPIPE, SIG_IGN);
  base64(PRIVATE_A, private_a);
  base64(PUBLIC_A, public_a);
  base64(PUBLIC_B, public_b);
  for (i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    int fds = open_fds(), tasks = threads();
    tests[i]();
    check_left(fds, tasks);
  }
  return 0;
}
