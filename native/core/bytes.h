/* Little-endian numbers of a file, wherever they lie. */
#ifndef BSK_BYTES_H
#define BSK_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint32_t u16(const uint8_t *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
static inline uint32_t u32(const uint8_t *at) { return u16(at) | u16(at + 2) << 16; }
static inline int32_t i32(const uint8_t *at) { const uint32_t u = u32(at); return u <= INT32_MAX ? (int32_t)u : -(int32_t)(UINT32_MAX - u) - 1; }
static inline int32_t i8(const uint8_t *at) { return *at < 128 ? *at : *at - 256; }
static inline float f32(const uint8_t *at) { const uint32_t u = u32(at); float f; memcpy(&f, &u, 4); return f; }

#endif
