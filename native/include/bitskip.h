/* Public C interface of the bitskip runtime.
 *
 * A program is a list of operations over tensors in one arena per image (docs/program.md fixes what each computes).
 * The caller owns all memory: ask bsk_engine_bytes for the sizes, hand over blocks of that size, run. Nothing here
 * allocates, locks or throws. Everything between bsk_engine_init and the end of the engine's life must stay in place:
 * the constants the operations point to may be freed after init, because they are repacked into the engine's block.
 */
#ifndef BITSKIP_H
#define BITSKIP_H

#include <stddef.h>
#include <stdint.h>

#include "bitskip_ops.h" /* codes and limits, from the table of ops */

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef enum {
  BSK_OK = 0,
  BSK_ERR_ARGUMENT = 1,    /* a value out of its range, or sizes that do not fit together */
  BSK_ERR_UNSUPPORTED = 2, /* a combination of types that no kernel computes */
  BSK_ERR_ISA = 3,         /* the asked instruction set is not there on this machine or in this build */
  BSK_ERR_MEMORY = 4,      /* a block is smaller than bsk_engine_bytes said */
  BSK_ERR_FORMAT = 5       /* bytes that are not a sound .bitskip file */
} bsk_status;

/* Families of instruction sets: BSK_ISA_NEON, BSK_ISA_AVX2, BSK_ISA_AVX512, BSK_ISA_AMX. BSK_ISA_BEST takes the best variant of every
 * kernel. */
typedef enum {
  BSK_ISA_SCALAR = 0,
#define BSK_FAMILY(processor, name, NAME, base, bit, number) BSK_ISA_##NAME = number,
#include "bitskip_isas.inc"
  BSK_ISA_BEST = 99
} bsk_isa;

/* What the processor and the operating system allow, each detected on its own: BSK_CPU_AVX2, BSK_CPU_VNNI and so on. */
enum {
#define BSK_FAMILY(processor, name, NAME, base, bit, number) BSK_CPU_##NAME = 1u << bit,
#define BSK_EXTENSION(processor, name, NAME, base, bit) BSK_CPU_##NAME = 1u << bit,
#include "bitskip_isas.inc"
  /* Not of the processor: methods of its kernels, here so that bsk_cpu_limit can hide them. */
  BSK_CPU_LOOKUP = 1u << 24,  /* 1-bit weights by table lookup */
  BSK_CPU_WINOGRAD = 1u << 25 /* 3x3 convolutions by Winograd's minimal filtering */
};
uint32_t bsk_cpu_features(void);

/* Hide features from engines made later, to test kernels that a better one shadows; ~0 shows all again. */
void bsk_cpu_limit(uint32_t allowed);

/* Where a tensor lives: an offset in the arena, or one of these. Of several inputs, which lie one after the other, the one
 * that begins at byte n is at BSK_AT_INPUT - n. */
enum { BSK_AT_NONE = -1, BSK_AT_INPUT = -2 };

typedef struct {
  int32_t dtype;      /* bsk_dtype */
  int32_t h, w, c;    /* one image, channels last; BSK_BITS packs c into 64-bit words */
  int32_t zero_point; /* BSK_I8 only */
  int64_t offset;     /* bytes from the start of the arena, BSK_AT_INPUT, or BSK_AT_NONE for an absent tensor */
} bsk_tensor;

typedef struct {
  int32_t kind;
  const float *slope, *shift_in, *shift_out; /* per output channel, where the kind uses them */
} bsk_act;

/* What happens to an accumulator; absent vectors are NULL. Steps as in docs/program.md, "Epilogues". */
typedef struct {
  int32_t kind;
  const float *scale, *bias; /* float */
  bsk_act pre, post;         /* integer: only none or relu */
  const float *threshold;    /* float, for the bits output */
  float inv_scale;           /* float, for the i8 output */
  const int32_t *t;          /* threshold */
  const uint8_t *flip;       /* threshold: a stream of bits, least significant first */
  const int32_t *m;          /* integer */
  const int64_t *b;          /* integer: either these, or those of the next line times 2^b_shift */
  const int32_t *b32;
  int32_t b_shift;
  int32_t shift;      /* integer, 1..40 */
  int32_t residual_m; /* integer, with a residual */
} bsk_epilogue;

typedef enum {
  BSK_OP_CONV = 0,           /* any of the accumulators of docs/program.md, then any epilogue */
  BSK_OP_QUANTIZE_INPUT = 1, /* u8 to f32 (x * scale[c] + bias[c]) or to i8 by `table` (256 bytes a channel) */
  BSK_OP_ELEMENTWISE = 2,    /* float epilogue on f32 (affine, add with `residual`, binarize, quantize) */
  BSK_OP_INTEGER = 3,        /* integer or threshold epilogue on i8: acc = q - zero_point (add), or q itself for thresholds */
  BSK_OP_DEQUANTIZE = 4,     /* i8 to f32: (q - zero_point) * in_scale */
  BSK_OP_MAX_POOL = 5,       /* f32 or i8; padding is never the maximum; windows of pools may hang over the far edges */
  BSK_OP_AVG_POOL = 6,       /* f32: sum over the taps inside the picture * (1 / count) */
  BSK_OP_GLOBAL_POOL = 7,    /* f32: sum * pool_scale; i8: exact i32 sum of (q - zero_point) */
  BSK_OP_FC_I32 = 8,         /* i32 vector x i8 or w1 weights, float epilogue */
  BSK_OP_SIMPLE = 100        /* plus a bsk_file_op: concat (of in, residual and more, those that are there), resize, mul (by the
                                (1, 1, C) tensor in `residual`), lookup (`table` of 256 bytes, from q = -128) */
} bsk_op_kind;

typedef struct {
  int32_t kind;
  bsk_tensor in, residual, more[2];
  bsk_tensor out_f32, out_bits, out_i8; /* at least one present; out_i8 is the i32 output of BSK_OP_GLOBAL_POOL on i8 */
  int32_t kh, kw, sh, sw, ph, pw;
  int32_t gap_h, gap_w;  /* conv: pixels that lie between two taps, dilation - 1 */
  int32_t pad_value;     /* conv on bits: 0, +1 or -1 */
  int32_t groups;        /* conv: 1, or more with f32 and i8 weights; 0 means 1 */
  int32_t weight_dtype;  /* BSK_F32, BSK_I8 or BSK_BITS */
  int32_t weight_stream; /* BSK_BITS: a stream of bits (O, KH, KW, I), as in the file, not words */
  const void *weights;   /* canonical, docs/program.md "Weights"; BSK_BITS in memory form, uint64 (O, KH, KW, ceil(I/64)) */
  const uint8_t *table;  /* quantize_input to i8: (c, 256), as unsigned bytes of the int8 values */
  float in_scale;        /* dequantize */
  float pool_scale;      /* global pool on f32: 1 / (H * W) */
  int32_t count_padding; /* avg_pool: divide by the whole window, not by its taps inside the picture */
  bsk_epilogue epi;
} bsk_op;

/* ---- Files: a *.bitskip opened where it lies ---------------------------------------------------------------------- */

typedef struct {
  const uint8_t *bytes; /* the file; it must stay in place while the program is used */
  uint32_t n_tensors, n_inputs, n_ops, n_outputs, n_classes, arena_bytes;
  const uint8_t *tensors, *ops, *outputs; /* the tables of docs/program.md, "File" */
  const char *names, *json;               /* neither ends with a 0 */
  uint32_t names_bytes, json_bytes;
  const char *error; /* after a failure: why (a constant string), and which tensor or op it is about */
  uint32_t error_at;
} bsk_program;

/* Open the content of a file, at a multiple of 8 in memory (64 is faster), and check all of it: what it lets through may be
 * run without further checks. Allocates nothing. */
bsk_status bsk_open(const void *bytes, size_t size, bsk_program *program);

/* Tensor `number` (0 is the picture; the first n_inputs are the inputs), the tensor of an output, and operation `number`, for bsk_engine_bytes and _init. Its
 * constants lie in the file. */
bsk_tensor bsk_program_tensor(const bsk_program *program, uint32_t number);
bsk_tensor bsk_program_output(const bsk_program *program, uint32_t output);
size_t bsk_program_image_bytes(const bsk_program *program); /* of all inputs together */
void bsk_program_op(const bsk_program *program, uint32_t number, bsk_op *op);

/* Line `line` of the names, without a 0 at its end: 0 the program, 1.. the outputs, then the classes, tensors and ops. */
const char *bsk_program_name(const bsk_program *program, uint32_t line, size_t *length);

/* ---- Engines ------------------------------------------------------------------------------------------------------ */

typedef struct bsk_engine bsk_engine;

typedef struct {
  size_t engine_bytes;        /* constants and plan, shared by all threads */
  size_t scratch_bytes;       /* a thread */
  size_t arena_bytes;         /* a thread, as given */
  size_t batch;               /* pictures that one thread best runs side by side (bsk_engine_run_batch); 1: that gains nothing */
  size_t batch_scratch_bytes; /* of a thread that does, instead of scratch_bytes */
} bsk_sizes;

/* Sizes of the blocks for `ops`, and the check of the whole program: everything is validated here. */
bsk_status bsk_engine_bytes(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, bsk_sizes *sizes);

/* Build an engine inside `memory`. On an error *message names what is wrong (a constant string). */
bsk_status bsk_engine_init(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, void *memory, size_t bytes, bsk_engine **engine);

/* Why the last bsk_engine_bytes or bsk_engine_init of this thread failed. */
const char *bsk_last_error(void);

/* Number of operations, and the kernel variant chosen for one of them ("conv_bits_w1_avx512"). */
size_t bsk_engine_ops(const bsk_engine *engine);
const char *bsk_engine_kernel(const bsk_engine *engine, size_t op);

/* Whether pictures of a batch go through operation `op` together. */
int bsk_engine_together(const bsk_engine *engine, size_t op);

/* Run operation `op` on the output rows of part `part` of `parts`; all parts of one operation may run at once. `image` is the
 * u8 picture (H, W, C); of a program with several inputs each of them, one after the other. */
void bsk_engine_run_op(const bsk_engine *engine, size_t op, const uint8_t *image, void *arena, void *scratch, int part, int parts);

/* Run all operations, on one thread. Outputs then lie in the arena, at the offsets of their tensors. */
void bsk_engine_run(const bsk_engine *engine, const uint8_t *image, void *arena, void *scratch);

/* Pictures side by side: picture i is at images + i * image_step, its arena at arenas + i * arena_step. */
typedef struct {
  const uint8_t *images;
  size_t image_step;
  void *arenas;
  size_t arena_step; /* at least the arena's bytes, a multiple of 64 */
  void *scratch;     /* bsk_sizes.batch_scratch_bytes */
  size_t count;      /* at least 1, at most bsk_sizes.batch */
} bsk_batch;

/* Run all operations on all pictures of a batch, on one thread, with the outputs that each picture has alone. Operations
 * that make something ready from their weights first do that once for all pictures; others take them one by one. */
void bsk_engine_run_batch(const bsk_engine *engine, const bsk_batch *batch);

/* One operation of it, on all pictures; for timing. */
void bsk_engine_run_batch_op(const bsk_engine *engine, size_t op, const bsk_batch *batch);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
