/* The tables of variants, expanded from every kernels.inc: one line there adds a kernel here. */
#include "dispatch.h"

#include "../kernels/conv_bits_w1/conv_bits_w1.h"
#include "../kernels/conv_f32_f32/conv_f32_f32.h"
#include "../kernels/conv_f32_w1/conv_f32_w1.h"
#include "../kernels/conv_i8_i8/conv_i8_i8.h"
#include "../kernels/conv_i8_w1/conv_i8_w1.h"
#include "../kernels/conv_grouped/conv_grouped.h"
#include "../kernels/epilogue/epilogue.h"
#include "../kernels/plain/plain.h"
#include "../kernels/winograd/winograd.h"

typedef struct {
  bsk_conv_types types;
  bsk_conv_kernel kernel;
} conv_entry;

enum {
  types_bits_w1 = BSK_CONV_BITS_W1,
  types_i8_w1 = BSK_CONV_I8_W1,
  types_i8_i8 = BSK_CONV_I8_I8,
  types_f32_w1 = BSK_CONV_F32_W1,
  types_f32_f32 = BSK_CONV_F32_F32
};

#define BSK_CONV(types, name, isa, needs, rows, pack, pixels, unpack) \
  {(bsk_conv_types)types_##types, {#name, isa, needs, rows, pack, pixels, bsk_##name, unpack, NULL}},
#define BSK_CONV_SPECIAL(types, name, isa, needs, rows, pack, pixels, unpack, special) \
  {(bsk_conv_types)types_##types, {#name, isa, needs, rows, pack, pixels, bsk_##name, unpack, special}},
static const conv_entry convs[] = {
#include "../kernels/conv_bits_w1/kernels.inc"
#include "../kernels/conv_f32_f32/kernels.inc"
#include "../kernels/conv_f32_w1/kernels.inc"
#include "../kernels/conv_i8_i8/kernels.inc"
#include "../kernels/conv_i8_w1/kernels.inc"
};

#define BSK_GROUPED(dtype, depthwise, name, isa, needs) {#name, dtype, depthwise, isa, needs, bsk_##name},
static const bsk_grouped_kernel groupeds[] = {
#include "../kernels/conv_grouped/kernels.inc"
};

#define BSK_EPILOGUE(isa, level, needs, last) \
  {"epilogue_" #isa, level, needs, last, bsk_epi_float_f32_##isa, bsk_epi_float_i32_##isa, bsk_epi_threshold_##isa, bsk_epi_integer_##isa},
static const bsk_epi_kernels epilogues[] = {
#include "../kernels/epilogue/kernels.inc"
};

#define BSK_PLAIN(isa, level, needs) &bsk_plain_##isa,
static const bsk_plain_kernels *const plains[] = {
#include "../kernels/plain/kernels.inc"
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static int runs_here(bsk_isa level, uint32_t needs, bsk_isa asked) { return (int)level <= (int)asked && (needs & ~bsk_cpu_features()) == 0; }

int bsk_isa_available(bsk_isa isa) {
  const uint32_t found = bsk_cpu_features();
  switch (isa) {
    case BSK_ISA_SCALAR:
    case BSK_ISA_BEST:
      return 1;
    case BSK_ISA_NEON:
      return (found & BSK_CPU_NEON) != 0;
    case BSK_ISA_AVX2:
      return (found & BSK_CPU_AVX2) != 0;
    case BSK_ISA_AVX512:
      return (found & BSK_CPU_AVX512) != 0;
    case BSK_ISA_AMX:
      return (found & BSK_CPU_AMX) != 0;
    default:
      return 0;
  }
}

static const char *_Atomic preferred;

void bsk_conv_prefer(const char *name) {
  preferred = NULL;
  for (size_t i = 0; name && i < COUNT(convs); ++i)
    if (strcmp(convs[i].kernel.name, name) == 0) preferred = convs[i].kernel.name;
}

/* Whether a kernel computes this convolution, and exactly. */
static int can_run(const bsk_conv_kernel *kernel, const bsk_conv_shape *s) {
  const bsk_special *special = kernel->special;
  if (!special || !special->winograd) return 1;
  return !s->dilated && s->kh == 3 && s->kw == 3 && s->sh == special->winograd->stride && s->sw == special->winograd->stride &&
         s->inputs % special->winograd->align == 0 && (special->winograd->is_float || s->largest < special->winograd->limit);
}

static int64_t tiles_of(const bsk_conv_shape *s, int m) { return (int64_t)((s->height + m - 1) / m) * ((s->width + m - 1) / m); }

/* Whether it pays where it can run. */
static int pays(const bsk_conv_kernel *kernel, const bsk_conv_shape *s) {
  const bsk_special *special = kernel->special;
  if (!special) return 1;
  if (special->winograd) {
    if (!special->winograd->is_float && kernel->isa == BSK_ISA_AVX512) return 0; /* not yet measured against vpdpbusd on bytes */
    if (s->inputs < 32 || s->outputs < 32) return 0;
    if (special->winograd->is_float) return tiles_of(s, special->winograd->m) >= (special->winograd->m == 4 ? 12 : 4);
    /* In products a pair of channels; making U takes as long as about 30 for each 16 points. */
    const int64_t two = 16 * tiles_of(s, 2) + 30, four = 36 * tiles_of(s, 4) + 60, all = 9 * (int64_t)s->height * s->width;
    if (special->winograd->stride == 2) return 25 * tiles_of(s, 2) + 30 < all;
    return special->winograd->m == 2 ? two < all : four < two && four < all;
  }
  return s->inputs >= special->least_inputs && s->width >= special->least_width;
}

/* Later lines of a kernels.inc win, so each lists its variants slowest first. */
const bsk_conv_kernel *bsk_find_conv(bsk_conv_types types, bsk_isa isa, const bsk_conv_shape *shape) {
  const bsk_conv_kernel *best = NULL;
  for (size_t i = 0; i < COUNT(convs); ++i) {
    const bsk_conv_kernel *kernel = &convs[i].kernel;
    if (convs[i].types != types || !runs_here(kernel->isa, kernel->needs, isa) || !can_run(kernel, shape)) continue;
    if (kernel->name == preferred) return kernel;
    if (pays(kernel, shape)) best = kernel;
  }
  return best;
}

const bsk_grouped_kernel *bsk_find_grouped(bsk_dtype dtype, int depthwise, bsk_isa isa) {
  const bsk_grouped_kernel *best = NULL;
  for (size_t i = 0; i < COUNT(groupeds); ++i)
    if (groupeds[i].dtype == dtype && groupeds[i].depthwise <= depthwise && runs_here(groupeds[i].isa, groupeds[i].needs, isa)) best = &groupeds[i];
  return best;
}

const bsk_epi_kernels *bsk_find_epilogue(bsk_isa isa, int activation) {
  const bsk_epi_kernels *best = NULL;
  for (size_t i = 0; i < COUNT(epilogues); ++i)
    if (activation <= epilogues[i].last_activation && runs_here(epilogues[i].isa, epilogues[i].needs, isa)) best = &epilogues[i];
  return best;
}

const bsk_plain_kernels *bsk_find_plain(bsk_isa isa) {
  const bsk_plain_kernels *best = NULL;
  for (size_t i = 0; i < COUNT(plains); ++i)
    if (runs_here(plains[i]->isa, plains[i]->needs, isa)) best = plains[i];
  return best;
}

int bsk_conv_runs_here(const bsk_conv_kernel *kernel) { return runs_here(kernel->isa, kernel->needs, BSK_ISA_BEST); }

const bsk_conv_kernel *bsk_conv_variant(size_t i) { return i < COUNT(convs) ? &convs[i].kernel : NULL; }
