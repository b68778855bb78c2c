/* Each code has a text of its own, and so has what is no code. */
#include "check.h"

int main(void) {
  static const int32_t codes[] = {
      WG_OK,          WG_ERR_NULL,      WG_ERR_INVALID,    WG_ERR_PROTOCOL, WG_ERR_UNSUPPORTED, WG_ERR_TOO_LARGE,
      WG_ERR_CLOSED,  WG_ERR_BUSY,      WG_ERR_TIMED_OUT,  WG_ERR_FORKED,   WG_ERR_IO,          WG_ERR_PERMISSION,
      WG_ERR_REFUSED, WG_ERR_UNREACHABLE,
      WG_ERR_EXISTS,  WG_ERR_NOT_FOUND, WG_ERR_ADDR_IN_USE, WG_ERR_PANIC,   WG_ERR_RESOURCES,   WG_ERR_UNKNOWN_HANDLE,
      -12345,         1,
  };
  const size_t count = sizeof codes / sizeof codes[0];
  size_t i, k;
  for (i = 0; i < count; i++) {
    CHECK(strlen(wg_result_text(codes[i])) > 5);
    for (k = 0; k < i; k++) CHECK(strcmp(wg_result_text(codes[i]), wg_result_text(codes[k])) != 0);
  }
  CHECK_TEXT(wg_result_text(INT32_MIN), wg_result_text(-12345));
  CHECK_TEXT(wg_result_text(INT32_MAX), wg_result_text(1));
  CHECK_EQ(wg_turn_off(12345), WG_ERR_UNKNOWN_HANDLE);
  CHECK_TEXT(wg_result_text(WG_ERR_UNKNOWN_HANDLE), "there is nothing with this handle");
  return 0;
}
