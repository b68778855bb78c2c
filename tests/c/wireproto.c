/* Control calls as WireProto messages. */
#include "check.h"

/* A request of one command without other fields. */
static size_t request_of(const char *command, uint8_t *to) {
  uint8_t size = (uint8_t)strlen(command), *at = to;
  const uint8_t head[] = {1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, (uint8_t)(27 + size), 0, 0, 0, 1, 0, 0, 0,
                          (uint8_t)(19 + size), 0, 0, 0, 1, 0, 0, 0, (uint8_t)(11 + size), 0, 0, 0, 3, 0, 0, 0, size,
                          'c', 'm', 'd'};
  memcpy(at, head, sizeof head);
  memcpy(at + sizeof head, command, size);
  at += sizeof head + size;
  *at++ = 3;
  *at++ = 4;
  return (size_t)(at - to);
}

/* Whether the response begins with this status and has this text. The response is freed. */
static int answers(int32_t handle, const uint8_t *request, size_t len, int status, const char *text) {
  uint8_t *response = NULL;
  size_t response_len = 0;
  int has;
  CHECK_EQ(wg_wireproto_call(handle, request, len, &response, &response_len), WG_OK);
  CHECK(response != NULL && response_len > 20);
  CHECK_EQ(response[0], status);
  CHECK_EQ(response[1], 0x1b);
  CHECK_EQ(response[response_len - 2], 3);
  CHECK_EQ(response[response_len - 1], 4);
  has = memmem(response, response_len, text, strlen(text)) != NULL;
  wg_free(response);
  return has;
}

static void each_command_has_an_answer(struct end end) {
  uint8_t request[128];
  CHECK(answers(end.handle, request, request_of("version", request), 6, wg_version_string()));
  CHECK(answers(end.handle, request, request_of("get", request), 6, "fwmark=0") == 0);
  CHECK(answers(end.handle, request, request_of("stats", request), 6, "\"out_no_peer\":"));
  CHECK(answers(end.handle, request, request_of("peers", request), 6, "[]"));
  CHECK(answers(end.handle, request, request_of("events", request), 6, "\"dropped\":0"));
  CHECK(answers(end.handle, request, request_of("ping", request), 0x15, "\"error\":\"unsupported\",\"code\":-4"));
  CHECK(answers(end.handle, request, request_of("set", request), 0x15, "there is nothing to set"));
}

/* wait, 1 ms as 4 bytes. */
static void events_may_be_waited_for(struct end end) {
  static const uint8_t request[] = {1,   0,   0,   0,   1,   2,   0,   0,   0,   1, 0, 0, 0, 49, 0,   0,   0,   1,
                                    0,   0,   0,   41,  0,   0,   0,   2,   0,   0, 0, 33, 0, 0,  0,   3,   0,   0,
                                    0,   6,   'c', 'm', 'd', 'e', 'v', 'e', 'n', 't', 's', 0, 0, 0, 4, 0, 0, 0,
                                    4,   'w', 'a', 'i', 't', 0,   0,   0,   1,   3, 4};
  CHECK(answers(end.handle, request, sizeof request, 6, "\"left\":0"));
}

/* listen_port, as 2 bytes. */
static void a_set_is_applied(struct end end) {
  uint8_t request[] = {1,   0,   0,   0,   1,   2,   0,   0,   0,   1,   0,   0,   0,   51,  0,  0,  0,  1, 0,  0,
                       0,   43,  0,   0,   0,   2,   0,   0,   0,   35,  0,   0,   0,   3,   0,  0,  0,  3, 'c', 'm',
                       'd', 's', 'e', 't', 0,   0,   0,   11,  0,   0,   0,   2,   'l', 'i', 's', 't', 'e', 'n',
                       '_', 'p', 'o', 'r', 't', 0x30, 0x39, 3,   4};
  char *text = NULL;
  CHECK_EQ(wg_pause(end.handle), WG_OK);
  CHECK(answers(end.handle, request, sizeof request, 6, "listen_port"));
  CHECK_EQ(wg_get_config(end.handle, &text), WG_OK);
  CHECK(strstr(text, "listen_port=12345\n") != NULL);
  wg_free(text);
}

static void what_cannot_be_read_is_an_answer(struct end end) {
  uint8_t request[128];
  size_t len = request_of("version", request), i;
  for (i = 0; i < len; i++) CHECK(answers(end.handle, request, i, 0x15, "\"error\":\"protocol\""));
  CHECK(answers(end.handle, NULL, 0, 0x15, "\"error\":\"protocol\""));
}

static void what_is_wrong_with_the_call_is_an_error(struct end end) {
  uint8_t request[128], *response = NULL;
  size_t len = request_of("version", request), response_len = 77;
  CHECK_FAILS(wg_wireproto_call(end.handle, NULL, len, &response, &response_len), WG_ERR_NULL, "request is NULL");
  CHECK_FAILS(wg_wireproto_call(end.handle, request, len, NULL, &response_len), WG_ERR_NULL, "response is NULL");
  CHECK_FAILS(wg_wireproto_call(end.handle, request, len, &response, NULL), WG_ERR_NULL, "response_len is NULL");
  CHECK_EQ(wg_wireproto_call(-1, request, len, &response, &response_len), WG_ERR_UNKNOWN_HANDLE);
  CHECK(response == NULL && response_len == 77);
}

int main(void) {
  uint8_t request[128], *response = NULL;
  size_t len = request_of("version", request), response_len = 0;
  struct end end = turn_on(SOCK_DGRAM, "listen_port=0\n");
  each_command_has_an_answer(end);
  events_may_be_waited_for(end);
  a_set_is_applied(end);
  what_cannot_be_read_is_an_answer(end);
  what_is_wrong_with_the_call_is_an_error(end);
  turn_off(end);
  CHECK_EQ(wg_wireproto_call(end.handle, request, len, &response, &response_len), WG_ERR_UNKNOWN_HANDLE);
  return 0;
}
