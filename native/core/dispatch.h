/* Which variant of each kernel runs: the fastest that the machine, the build and the asked instruction set allow. */
#ifndef BSK_DISPATCH_H
#define BSK_DISPATCH_H
#include "../kernels/kernel.h"

typedef enum { BSK_CONV_BITS_W1, BSK_CONV_I8_W1, BSK_CONV_I8_I8, BSK_CONV_F32_W1, BSK_CONV_F32_F32 } bsk_conv_types;

/* NULL when nothing fits, which only happens for an unknown type: every kernel has a scalar variant. */
const bsk_conv_kernel *bsk_find_conv(bsk_conv_types types, bsk_isa isa, const bsk_conv_shape *shape);
const bsk_grouped_kernel *bsk_find_grouped(bsk_dtype dtype, int depthwise, bsk_isa isa);
const bsk_epi_kernels *bsk_find_epilogue(bsk_isa isa, int activation); /* bsk_act_kind */
const bsk_plain_kernels *bsk_find_plain(bsk_isa isa);

/* Whether `isa` can be asked for here: scalar and best always, others where this build and the processor have them. */
int bsk_isa_available(bsk_isa isa);

/* The i-th line of bitskip_isas.inc, of any processor; NULL past the last one. */
typedef struct {
  const char *name;
  int asked;        /* bsk_isa of a family, BSK_NOT_ASKED of an extension */
  uint32_t feature; /* its bit in bsk_cpu_features */
  uint32_t needs;   /* and those of its base, of the base's base, ... */
} bsk_instruction_set;
#define BSK_NOT_ASKED (-1)
const bsk_instruction_set *bsk_instruction_set_at(size_t i);

/* Take this variant wherever it can run, until called with another name or NULL: for tests and for timing. */
void bsk_conv_prefer(const char *name);

/* Run the tile of a kernel that this machine can run `repeats` times in `memory` of DRILL_BYTES, 64-byte aligned and zero; returns the
 * multiply-accumulates of the convolution that this stands for (more than it does, where Winograd's filtering saves some). */
#define DRILL_BYTES (64 * 1024)
double bsk_tile_drill(const bsk_conv_kernel *kernel, void *memory, size_t bytes, int repeats);
int bsk_conv_runs_here(const bsk_conv_kernel *kernel);

/* The i-th variant of the convolution kernels, for tests and listings; NULL past the last one. */
const bsk_conv_kernel *bsk_conv_variant(size_t i);
#endif
