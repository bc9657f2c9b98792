/* The tables of variants, expanded from every kernels.inc: one line there adds a kernel here. */
#include "dispatch.h"

#include "../kernels/variants.h"
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

#define LEVEL (bsk_isa) BSK_OF(bsk_level_, BSK_SET)
#define NEEDS (uint32_t)BSK_OF(bsk_needs_, BSK_SET)

static const conv_entry convs[] = {
#define BSK_CONV(types, text, function, row, weights, n, method, ...) \
  {(bsk_conv_types)types_##types,                                     \
   {.name = #text, .isa = LEVEL, .needs = NEEDS | method, .rows = row, .pack = weights, .pixels = n, .run = function, __VA_ARGS__}},
#include "../kernels/variants.inc"
};

static const bsk_grouped_kernel groupeds[] = {
#define BSK_GROUPED(dtype, depthwise, name) {#name, dtype, depthwise, LEVEL, NEEDS, bsk_##name},
#include "../kernels/variants.inc"
};

static const bsk_epi_kernels epilogues[] = {
#define BSK_EPILOGUE(name, last) \
  {"epilogue_" #name, LEVEL, NEEDS, last, bsk_epi_float_f32_##name, bsk_epi_float_i32_##name, bsk_epi_threshold_##name, bsk_epi_integer_##name},
#include "../kernels/variants.inc"
};

static const bsk_plain_kernels *const plains[] = {
#define BSK_PLAIN(name) &bsk_plain_##name,
#include "../kernels/variants.inc"
};

static const bsk_instruction_set sets[] = {
#define BSK_FAMILY(processor, name, NAME, base, bit, number) {#name, number, BSK_CPU_##NAME, bsk_needs_##name},
#define BSK_EXTENSION(processor, name, NAME, base, bit) {#name, BSK_NOT_ASKED, BSK_CPU_##NAME, bsk_needs_##name},
#include "bitskip_isas.inc"
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

const bsk_instruction_set *bsk_instruction_set_at(size_t i) { return i < COUNT(sets) ? &sets[i] : NULL; }

static const bsk_instruction_set *family(bsk_isa isa) {
  for (size_t i = 0; i < COUNT(sets); ++i)
    if (sets[i].asked == (int)isa) return &sets[i];
  return NULL;
}

int bsk_isa_available(bsk_isa isa) {
  const bsk_instruction_set *set = family(isa);
  return isa == BSK_ISA_SCALAR || isa == BSK_ISA_BEST || (set && (bsk_cpu_features() & set->feature));
}

/* A family brings what it stands on, whatever else the machine has. */
static int runs_here(bsk_isa level, uint32_t needs, bsk_isa asked) {
  if (needs & ~bsk_cpu_features()) return 0;
  if (level == BSK_ISA_SCALAR || level == asked || asked == BSK_ISA_BEST) return 1;
  const bsk_instruction_set *set = family(asked);
  return set && (family(level)->feature & set->needs);
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
  if (kernel->rows == BSK_ROWS_MARKED) return s->zero_point <= BSK_MARKED_ZERO;
  if (!special || !special->winograd) return 1;
  return !s->dilated && s->kh == 3 && s->kw == 3 && s->sh == special->winograd->stride && s->sw == special->winograd->stride &&
         s->inputs % special->winograd->align == 0 && (special->winograd->is_float || s->largest < special->winograd->limit);
}

static int64_t tiles_of(const bsk_conv_shape *s, int m) { return (int64_t)((s->height + m - 1) / m) * ((s->width + m - 1) / m); }

/* Whether it pays where it can run; `other` is the best before it. */
static int pays(const bsk_conv_kernel *kernel, const bsk_conv_shape *s, const bsk_conv_kernel *other) {
  const bsk_special *special = kernel->special;
  if (kernel->by_name_only) return 0;
  if (!special) return 1;
  if (special->winograd) {
    if (s->inputs < 32 || s->outputs < 32) return 0;
    if (special->winograd->is_float) return tiles_of(s, special->winograd->m) >= (special->winograd->m == 4 ? 12 : 4);
    /* In products a pair of channels; making U takes as long as about 30 for each 16 points. */
    const int64_t two = 16 * tiles_of(s, 2) + 30, four = 36 * tiles_of(s, 4) + 60,
                  all = 9 * (int64_t)s->height * s->width * (other && other->rows == BSK_ROWS_MARKED ? 5 : 8) / 8; /* bytes take 5 operations for 8 */
    if (special->winograd->stride == 2) return 25 * tiles_of(s, 2) + 30 < all;
    return special->winograd->m == 2 ? two < all : four < two && four < all;
  }
  if (kernel->rows == BSK_ROWS_MARKED) return 4 * s->inputs >= 3 * ((s->inputs + BSK_MARKED - 1) / BSK_MARKED * BSK_MARKED); /* a third faster than int16 */
  return s->inputs >= special->least_inputs && s->width >= special->least_width;
}

/* Later lines win: those of a set behind those of its base, and in a kernels.inc slowest first. */
const bsk_conv_kernel *bsk_find_conv(bsk_conv_types types, bsk_isa isa, const bsk_conv_shape *shape) {
  const bsk_conv_kernel *best = NULL;
  for (size_t i = 0; i < COUNT(convs); ++i) {
    const bsk_conv_kernel *kernel = &convs[i].kernel;
    if (convs[i].types != types || !runs_here(kernel->isa, kernel->needs, isa) || !can_run(kernel, shape)) continue;
    if (kernel->name == preferred) return kernel;
    if (pays(kernel, shape, best)) best = kernel;
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
