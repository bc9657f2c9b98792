/* What every kernel shares: the tile shape, padded parameter vectors and the types of the function tables.
 *
 * Tiles: a convolution kernel computes `pixels` output pixels (any, by pointer) x BSK_GROUP output channels. Channels
 * are padded to whole groups when constants are packed at load, so kernels never have a tail in that direction;
 * only what is read from or written to tensors respects the true channel count.
 */
#ifndef BSK_KERNEL_H
#define BSK_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bitskip.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed signs are little-endian words; this runtime has no kernels for big-endian machines"
#endif

/* Of each instruction set, by its name: the family with which it comes, its own feature and all that its kernels need. */
enum {
  bsk_level_scalar = BSK_ISA_SCALAR,
  bsk_bit_scalar = 0,
  bsk_needs_scalar = 0,
#define BSK_FAMILY(processor, name, NAME, base, bit, number) \
  bsk_level_##name = BSK_ISA_##NAME, bsk_bit_##name = BSK_CPU_##NAME, bsk_needs_##name = bsk_bit_##name | bsk_needs_##base,
#define BSK_EXTENSION(processor, name, NAME, base, bit) \
  bsk_level_##name = bsk_level_##base, bsk_bit_##name = BSK_CPU_##NAME, bsk_needs_##name = bsk_bit_##name | bsk_needs_##base,
#include "bitskip_isas.inc"
};

/* With the name in a macro: BSK_OF(bsk_level_, BSK_SET). */
#define BSK_OF2(what, name) what##name
#define BSK_OF(what, name) BSK_OF2(what, name)
#define BSK_TEXT2(name) #name
#define BSK_TEXT(name) BSK_TEXT2(name)

#define BSK_GROUP 32      /* output channels of a tile */
#define BSK_MAX_PIXELS 32 /* largest number of output pixels of a tile */
#define BSK_ALIGN 64
#define BSK_MARKED 32         /* inputs to a byte of marks (BSK_ROWS_MARKED) */
#define BSK_MARKED_ZERO (-64) /* largest zero point of such inputs: padding needs no marks, and few others do */

#if defined(__GNUC__) || defined(__clang__)
#define BSK_INLINE static inline __attribute__((always_inline))
#else
#define BSK_INLINE static inline
#endif

/* ---- Convolution tiles -------------------------------------------------------------------------------------- */

/* How a kernel wants its input rows; the padding is written in the same form. */
typedef enum {
  BSK_ROWS_BITS = 0,    /* uint32 words, ceil(C / 32) a pixel */
  BSK_ROWS_U8 = 1,      /* q + 128, channels padded to 4 with 0 */
  BSK_ROWS_I16 = 2,     /* q - zero_point as int16, channels padded to 2 with 0 */
  BSK_ROWS_I8 = 3,      /* q, channels padded to 4 with 0 */
  BSK_ROWS_F32 = 4,     /* as is */
  BSK_ROWS_SIGNS = 6,   /* bits as bytes of +1 and -1, channels padded to a multiple of 64 with 0 */
  BSK_ROWS_NIBBLES = 5, /* bytes of 16 * (4 bits), ceil(C / 4) a pixel */
  BSK_ROWS_MARKED = 8,  /* q + 128, channels padded to 32 with 0, and apart from them two bits for every 8: see isa/avx2/conv_i8_i8_bytes.c */
  BSK_ROWS_TABLES = 7   /* for 8 channels of q + 128 (padded with 0) 64 bytes: subset sums of the first 4, then the last 4, first
                           their low bits (16 bytes and 16 bytes), then what stands above; see conv_i8_w1/lookup.h */
} bsk_rows;

/* How weights are packed for a kernel: [group][kh][kw][step][lane of BSK_GROUP][inputs of a step]. */
typedef enum {
  BSK_PACK_BITS = 0,         /* uint32 of 32 inputs a lane */
  BSK_PACK_I8 = 1,           /* 4 int8 a lane */
  BSK_PACK_I16 = 2,          /* 2 int16 a lane */
  BSK_PACK_F32 = 3,          /* 1 float a lane */
  BSK_PACK_MASK_I8 = 4,      /* BSK_GROUP * 4 bits a step, bit 1 = -1: 16 bytes that `unpack` turns into BSK_PACK_I8 */
  BSK_PACK_I8_WIDE = 8,      /* 8 int8 a lane */
  BSK_PACK_MASK_I8_WIDE = 9, /* BSK_GROUP * 8 bits a step, likewise for BSK_PACK_I8_WIDE */
  BSK_PACK_NIBBLES = 6,      /* a byte of 4 bits a lane */
  BSK_PACK_SUBSETS = 7,      /* a byte a lane: bits 0..3 the first 4 inputs, bits 4..7 the next 4, 1 = +1; `unpack` parts them */
  BSK_PACK_MASK_F32 = 5      /* BSK_GROUP bits a step, bit 1 = -1: 4 bytes that `unpack` turns into BSK_PACK_F32 */
} bsk_pack;

/* acc[p][lane] = base[p][lane] + sum over kh rows of `run` steps (for bits: base - 2 * popcount). base may be NULL
 * for float kernels. px[p] points at the first input of output pixel p; rows are row_bytes apart. A kernel that takes
 * several groups at once (bsk_special) writes acc[p][groups * BSK_GROUP]; their weights are group_bytes apart. */
typedef struct {
  const void *px[BSK_MAX_PIXELS];
  const int32_t *base[BSK_MAX_PIXELS];
  const void *weights;
  size_t row_bytes, group_bytes;
  int32_t kh, run, groups;
  int32_t n;                     /* pixels that count: px[n..] repeat the last one, and what is made of them is not read */
  int32_t total[BSK_MAX_PIXELS]; /* BSK_ROWS_TABLES: the sum of all q + 128 that a pixel reads */
  int32_t peak;                  /* BSK_ROWS_TABLES: no 4 steps of a row, from a multiple of 4 on, sum to more */
  const void *rows;              /* BSK_ROWS_MARKED: where rows begin, and the marks of what lies there */
  const uint8_t *marks;          /* or NULL: there are none */
} bsk_tile;
typedef void (*bsk_tile_fn)(const bsk_tile *tile, void *acc);

/* Expand `steps` steps of 1-bit weights of one group to the form the tile reads. Done once for a group and a call, so
 * weights rest in memory as bits and the tile runs at the speed of the wider type. */
typedef void (*bsk_unpack_fn)(const void *masks, void *weights, size_t steps);

/* What a convolution is, for choosing its kernel. `largest`: no integer accumulator is larger in absolute value. */
typedef struct {
  int32_t inputs, outputs, height, width, kh, kw, sh, sw; /* height, width: of the output */
  int32_t dilated;                                        /* whether taps lie apart */
  int64_t largest;
  int32_t zero_point; /* of int8 inputs */
} bsk_conv_shape;

/* What only some kernels need. */
typedef struct {
  int step_align;                    /* steps of a pixel are padded to a multiple of this */
  int least_inputs;                  /* with fewer input channels the next slower variant is better */
  int least_width;                   /* likewise with a narrower output */
  int line;                          /* output widths that are no multiple of this get their taps side by side, a line a pixel */
  int groups;                        /* of a tile, fewer in the last one; 0 means 1 */
  void (*begin)(void), (*end)(void); /* around all tiles of a call, or NULL */
  void (*rows_signs)(int8_t *dst, const uint64_t *src, size_t n, int c, int cp); /* for BSK_ROWS_SIGNS */
  const struct bsk_winograd *winograd; /* transforms around the tile, which then multiplies; kernels/winograd/winograd.h */
  /* for BSK_ROWS_TABLES; sums: of the channels of each pixel. Returns the largest sum of 32 channels of a pixel, from a multiple of 32 on. */
  int32_t (*rows_tables)(uint8_t *dst, int32_t *sums, const int8_t *src, size_t n, int c, int cp);
  int low_bits; /* of a table's first plane */
  /* for BSK_ROWS_MARKED: marks, in the lower 4 bits of a byte, every 8 channels of which 0, 1, 4 and 5 or the others sum to more than
   * `largest`; in the upper 4 bits, those of which a pair does */
  void (*rows_marked)(uint8_t *dst, uint8_t *marks, const int8_t *src, size_t n, int c, int cp, int largest);
} bsk_special;

typedef struct {
  const char *name;
  bsk_isa isa;
  uint32_t needs; /* BSK_CPU_* */
  bsk_rows rows;
  bsk_pack pack;
  int pixels;
  bsk_tile_fn run;
  bsk_unpack_fn unpack;       /* NULL where the tile reads the packed form itself */
  const bsk_special *special; /* NULL for most */
  int by_name_only;           /* not taken by itself: not yet measured against the line before it */
} bsk_conv_kernel;

/* ---- Grouped convolutions: some output pixels of a row, up to BSK_GROUP output channels ------------------------- */

#define BSK_MAX_TAPS 64 /* handed to a kernel at once; larger windows take several turns */

/* acc[p * BSK_GROUP + lane] += sum over taps and inputs j of (x - zero_point) * w, for output channels first + lane. Output
 * channel o reads input channels o / outputs * inputs + j; what pixel p reads lies p * pixel_bytes behind px. */
typedef struct {
  const void *px[BSK_MAX_TAPS]; /* the input pixel under each tap */
  int32_t tap[BSK_MAX_TAPS];    /* its number in the kernel */
  const void *weights;
  int32_t taps, all_taps, inputs, outputs, first, lanes, padded; /* inputs, outputs: of a group; padded: channels of packed weights */
  int32_t zero_point, pixels;
  size_t pixel_bytes;
} bsk_grouped_call;

typedef struct {
  const char *name;
  bsk_dtype dtype; /* of input and weights: BSK_F32 or BSK_I8 */
  int depthwise;   /* only for one input and one output a group; weights packed as [tap][padded], float or int16 */
  bsk_isa isa;
  uint32_t needs;
  void (*run)(const bsk_grouped_call *call, void *acc);
} bsk_grouped_kernel;

/* ---- Epilogues ---------------------------------------------------------------------------------------------- */

/* Parameter vectors padded to whole groups (scale 1, bias -0.0, threshold 0, ...), so that every one is present. */
typedef struct {
  int32_t pre, post;
  const float *scale, *bias, *threshold;
  const float *pre_slope, *pre_in, *pre_out, *post_slope, *post_in, *post_out;
  float inv_scale;
  int32_t out_zero_point;
} bsk_epi_float;

typedef struct {
  const int32_t *t;
  const uint32_t *keep; /* a word a group: bit c = !flip[c] */
} bsk_epi_threshold;

/* t = acc*m + b; pre relu; t += r*residual_m + c1; post relu; t += c2; q = saturate(t >> shift). The rounding, the
 * output zero point and -z_r*residual_m are folded into c1 and c2 (exact: all are integers below 2^62). */
typedef struct {
  int32_t pre_relu, post_relu, shift, residual_m;
  int32_t narrow; /* t >> shift fits int32 for every accumulator that the operation can have, and shift is at most 32 */
  int64_t c1, c2;
  const int32_t *m;
  const int64_t *b;
} bsk_epi_integer;

/* One call: `n` consecutive pixels, channels [group*32, group*32 + lanes). Pointers are to that group's first channel
 * of the first pixel; strides are elements from pixel to pixel. Absent inputs and outputs are NULL. */
typedef struct {
  int n, group, lanes;
  const void *acc; /* float or int32 or int8 */
  size_t acc_stride;
  const void *residual; /* f32 or i8 */
  size_t residual_stride;
  float *f32;
  int8_t *i8;
  size_t out_stride;  /* of f32 and i8 */
  uint32_t *bits;     /* the group's 32-bit word of the first pixel */
  size_t bits_stride; /* 32-bit words a pixel, even */
} bsk_epi_call;

typedef void (*bsk_epi_float_fn)(const bsk_epi_float *e, const bsk_epi_call *c);
typedef void (*bsk_epi_threshold_fn)(const bsk_epi_threshold *e, const bsk_epi_call *c);
typedef void (*bsk_epi_integer_fn)(const bsk_epi_integer *e, const bsk_epi_call *c);

typedef struct {
  const char *name;
  bsk_isa isa;
  uint32_t needs;
  int last_activation;
  bsk_epi_float_fn from_f32, from_i32;
  bsk_epi_threshold_fn threshold;
  bsk_epi_integer_fn integer;
} bsk_epi_kernels;

/* ---- Rows, pools and the input: plain C, compiled once for each instruction set ------------------------------ */

typedef struct {
  const char *name;
  bsk_isa isa;
  uint32_t needs;
  /* n pixels of c channels in a kernel's form (u8, i8 and i16 only; bits and f32 are copied) */
  void (*rows_u8)(uint8_t *dst, const int8_t *src, size_t n, int c, int cp);
  void (*rows_nibbles)(uint8_t *dst, const uint8_t *src, size_t n, int bytes, int nibbles);
  void (*rows_i16)(int16_t *dst, const int8_t *src, size_t n, int c, int cp, int zero_point);
  void (*input_f32)(float *dst, const uint8_t *src, size_t n, int c, const float *scale, const float *bias);
  void (*max_f32)(float *dst, const float *src, size_t n);
  void (*max_i8)(int8_t *dst, const int8_t *src, size_t n);
  void (*add_f32)(float *dst, const float *src, size_t n);
  void (*scale_f32)(float *dst, size_t n, float scale);
  void (*add_i8_i32)(int32_t *dst, const int8_t *src, size_t n, int zero_point);
  void (*table_u8)(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *table); /* dst[i] = table[src[i] ^ 128]; dst may be src */
  int64_t (*dot_i16_i8)(const int16_t *x, const int8_t *w, size_t n);
} bsk_plain_kernels;

#endif
