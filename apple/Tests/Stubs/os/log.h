/* A stand-in for Apple's <os/log.h>, with which the crate oslog compiles where Apple's headers are not. The formatted
 * text is passed as a string, so what it makes must not be shipped. */
#ifndef STUB_OS_LOG_H
#define STUB_OS_LOG_H

#include <stdint.h>

typedef struct os_log_s *os_log_t;
typedef uint8_t os_log_type_t;

extern struct os_log_s _os_log_default;
void stub_os_log(os_log_t log, os_log_type_t type, const char *format, ...);

#define OS_LOG_DEFAULT (&_os_log_default)
#define os_log_with_type(log, type, ...) stub_os_log(log, type, __VA_ARGS__)
#define os_log(log, ...) stub_os_log(log, 0, __VA_ARGS__)
#define os_log_info(log, ...) stub_os_log(log, 1, __VA_ARGS__)
#define os_log_debug(log, ...) stub_os_log(log, 2, __VA_ARGS__)
#define os_log_error(log, ...) stub_os_log(log, 16, __VA_ARGS__)
#define os_log_fault(log, ...) stub_os_log(log, 17, __VA_ARGS__)

#endif
