/* Opens the content of a *.bitskip file where it lies (docs/program.md, "File") and checks all of it, in C99 without
 * other libraries: nothing is allocated, no number of the file is trusted before it is checked, and no sum or product of
 * them can overflow its type. The checks are those of src/bitskip/program/check.py, made from the same table.
 *
 * That each tensor is written once, before it is read, needs no memory: a tensor's record names the op that writes it and
 * the last op that reads it, and each op confirms its part.
 */
#include "bitskip.h"
#include "bytes.h"

/* clang-format off */
typedef struct { uint8_t code, slope, shifts; } activation_row;
typedef struct { uint8_t code, shape, least, most, residual, keeps_scale, window, pool, in_place, count_padding, channel_tables; } op_row;
typedef struct { uint8_t op, in, weight, epilogue; uint32_t writes, needs, takes; uint8_t groups; } form_row;
typedef struct { int32_t dtype, zero_point, born, dies, offset; uint32_t h, w, c, scale; uint64_t bytes; } tensor;
/* clang-format on */
#define X(...) {__VA_ARGS__},
static const activation_row activations[] = {BSK_ACTIVATIONS(X)};
static const op_row rows[] = {BSK_ROWS(X)};
static const form_row forms[] = {BSK_FORMS(X)};
#undef X
#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define BIT(name) (1u << BSK_CONST_##name)
#define PRE (BIT(PRE_SLOPE) | BIT(PRE_SHIFT_IN) | BIT(PRE_SHIFT_OUT))
#define POST (BIT(POST_SLOPE) | BIT(POST_SHIFT_IN) | BIT(POST_SHIFT_OUT))

/* ---- Reading ----------------------------------------------------------------------------------------------------- */

static tensor tensor_at(const bsk_program *p, uint32_t number) {
  const uint8_t *at = p->tensors + (size_t)number * BSK_TENSOR_BYTES;
  tensor t = {at[0], i8(at + 1), (int32_t)u16(at + 2), (int32_t)u16(at + 4), i32(at + 20), u32(at + 8), u32(at + 12), u32(at + 16), u32(at + 24), 0};
  t.born = t.born == BSK_NO_TENSOR ? -1 : t.born, t.dies = t.dies == BSK_NO_TENSOR ? -1 : t.dies;
  const uint64_t pixels = (uint64_t)t.h * t.w, element = t.dtype == BSK_F32 || t.dtype == BSK_I32 ? 4 : 1;
  t.bytes = t.dtype == BSK_BITS ? pixels * (((uint64_t)t.c + 63) / 64) * 8 : pixels * t.c * element;
  return t;
}

static bsk_status fail(bsk_program *p, const char *message, uint32_t number) {
  p->error = message, p->error_at = number;
  return BSK_ERR_FORMAT;
}
/* clang-format off */
#define CHECK(condition, message) do { if (!(condition)) return fail(p, message, number); } while (0)
#define TRY(call) do { const bsk_status status_ = (call); if (status_ != BSK_OK) return status_; } while (0)
/* clang-format on */

/* ---- Names --------------------------------------------------------------------------------------------------------- */

static int is_utf8(const uint8_t *at, size_t n) {
  static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
  for (size_t i = 0; i < n;) {
    const uint32_t b = at[i++];
    const int more = b < 0x80 ? 0 : b >= 0xc2 && b < 0xe0 ? 1 : (b & 0xf0) == 0xe0 ? 2 : b >= 0xf0 && b < 0xf5 ? 3 : -1;
    if (more < 0 || (size_t)more > n - i) return 0;
    uint32_t code = more == 0 ? b : b & (0x3fu >> more);
    for (int k = 0; k < more; ++k, ++i) {
      if ((at[i] & 0xc0) != 0x80) return 0;
      code = code << 6 | (at[i] & 0x3fu);
    }
    if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
  }
  return 1;
}

static bsk_status check_names(bsk_program *p) {
  const uint32_t number = 0;
  uint64_t lines = 0, length = 0;
  for (size_t i = 0; i < p->names_bytes; ++i) {
    length = p->names[i] == '\n' ? 0 : length + 1;
    lines += p->names[i] == '\n';
    CHECK(length <= BSK_MAX_NAME, "a name is longer than 1000 bytes");
  }
  CHECK(length == 0 && lines == 1 + (uint64_t)p->n_outputs + p->n_classes + p->n_tensors + p->n_ops && is_utf8((const uint8_t *)p->names, p->names_bytes),
        "there are not as many names as things, or they are not UTF-8");
  return BSK_OK;
}

/* ---- Tensors and outputs -------------------------------------------------------------------------------------------- */

static int is_output(const bsk_program *p, uint32_t number) {
  for (uint32_t i = 0; i < p->n_outputs; ++i)
    if (u32(p->outputs + 4 * (size_t)i) == number) return 1;
  return 0;
}

static bsk_status check_tensor(bsk_program *p, uint32_t number) {
  const uint8_t *at = p->tensors + (size_t)number * BSK_TENSOR_BYTES;
  CHECK(at[0] <= BSK_I32, "a tensor's dtype is unknown");
  const tensor t = tensor_at(p, number);
  CHECK(t.h >= 1 && t.h <= BSK_MAX_SIDE && t.w >= 1 && t.w <= BSK_MAX_SIDE && t.c >= 1 && t.c <= BSK_MAX_CHANNELS, "a tensor's shape is out of range");
  CHECK(u16(at + 6) == 0, "a tensor's record holds more than it uses");
  CHECK((t.dtype == BSK_U8) == (number < p->n_inputs), "the first tensors, as many as there are inputs, and no others, are u8");
  const float scale = f32(at + 24), least = 1.0f / (float)(1ull << 50) / (float)(1ull << 50);
  CHECK(t.dtype != BSK_I8 || (scale >= least && scale <= 1.0f / least), "an i8 tensor's scale is not in 2^-100..2^100");
  CHECK(t.dtype == BSK_I8 || (t.scale == 0x3f800000u && t.zero_point == 0), "only i8 tensors have a scale and a zero point");
  CHECK(number >= p->n_inputs ||
            (t.offset == -1 && t.born == -1 && bsk_program_tensor(p, number).offset - (int64_t)t.bytes >= BSK_AT_INPUT - (int64_t)BSK_MAX_BYTES),
        "an input belongs to the caller: offset -1, less than 2^31 bytes together");
  if (number < p->n_inputs) return BSK_OK;
  CHECK(t.offset >= 0 && t.offset % (t.dtype == BSK_BITS ? 8 : 64) == 0, "a tensor's offset is negative or not aligned");
  CHECK((uint32_t)t.offset <= p->arena_bytes && t.bytes <= p->arena_bytes - (uint32_t)t.offset, "a tensor lies outside the arena");
  CHECK(t.born >= 0 && t.born < (int32_t)p->n_ops && t.dies >= t.born, "a tensor is never written");
  return BSK_OK;
}

static bsk_status check_last_read(bsk_program *p, uint32_t number) {
  const tensor t = tensor_at(p, number);
  int found = t.dies == t.born || t.dies == (int32_t)p->n_ops; /* whoever reads it checked dies */
  for (int i = 0; i < BSK_MAX_INPUTS && !found && t.dies >= 0 && t.dies < (int32_t)p->n_ops; ++i)
    found = u16(p->ops + (size_t)t.dies * BSK_RECORD_BYTES + BSK_COL_INPUTS + 2 * i) == number;
  CHECK(found && (t.dies == (int32_t)p->n_ops) == is_output(p, number), "a tensor's record does not say how it is used");
  return BSK_OK;
}

static bsk_status check_distinct(bsk_program *p, uint32_t line, uint32_t count, size_t shortest) {
  for (uint32_t number = 0; number < count; ++number)
    for (uint32_t other = 0; other < number; ++other) {
      size_t n, m;
      const char *a = bsk_program_name(p, line + number, &n), *b = bsk_program_name(p, line + other, &m);
      CHECK(n >= shortest && m >= shortest && (n != m || memcmp(a, b, n)), "two inputs or outputs have the same name, or an input has none");
    }
  return BSK_OK;
}

static bsk_status check_ends(bsk_program *p) {
  uint32_t number = 0;
  for (uint32_t i = 0; i < p->n_outputs; ++i) {
    number = u32(p->outputs + 4 * (size_t)i);
    CHECK(number >= p->n_inputs && number < p->n_tensors && tensor_at(p, number).dtype == BSK_F32, "an output is not an f32 tensor that an op writes");
    for (uint32_t j = 0; j < i; ++j) CHECK(u32(p->outputs + 4 * (size_t)j) != number, "two outputs have the same tensor");
  }
  TRY(check_distinct(p, 1, p->n_outputs, 0));
  TRY(check_distinct(p, 1 + p->n_outputs + p->n_classes, p->n_inputs, 1));
  const tensor t = tensor_at(p, u32(p->outputs)); /* a classifier's logits */
  CHECK(p->n_classes <= BSK_MAX_CHANNELS, "there are more than 2^20 class names");
  CHECK(p->n_outputs > 1 || t.h > 1 || t.w > 1 || p->n_classes == 0 || p->n_classes == t.c, "there are not as many class names as classes");
  return BSK_OK;
}

/* Tensors alive at once do not overlap, except where an op states that it works in its residual's place. */
static bsk_status check_aliasing(bsk_program *p) {
  for (uint32_t number = p->n_inputs + 1; number < p->n_tensors; ++number) {
    const tensor a = tensor_at(p, number);
    for (uint32_t other = p->n_inputs; other < number; ++other) {
      const tensor b = tensor_at(p, other);
      if ((uint64_t)a.offset >= (uint64_t)b.offset + b.bytes || (uint64_t)b.offset >= (uint64_t)a.offset + a.bytes) continue;
      if (a.born > b.dies || b.born > a.dies) continue;
      const tensor first = a.born < b.born ? a : b, second = a.born < b.born ? b : a;
      const uint32_t before = a.born < b.born ? number : other;
      const uint8_t *op = p->ops + (size_t)second.born * BSK_RECORD_BYTES;
      CHECK(op[BSK_COL_IN_PLACE] && first.dies == second.born && u16(op + BSK_COL_INPUTS + 2) == before && u16(op + BSK_COL_INPUTS) != before &&
                first.offset == second.offset && first.dtype == second.dtype && first.born < second.born,
            "a tensor overlaps another that is alive");
    }
  }
  return BSK_OK;
}

/* ---- Operations ------------------------------------------------------------------------------------------------------ */

typedef struct {
  const uint8_t *record;
  const op_row *row;
  const form_row *form;
  tensor in, out, added;                               /* added: the residual or the factor */
  uint32_t n_inputs, n_outputs, groups, kh, kw, given; /* given: a mask of constants */
  int64_t total;                                       /* channels of the inputs, without the residual's */
  int residual;
} view;

static bsk_status check_places(bsk_program *p, uint32_t number, view *v) {
  uint32_t list[BSK_MAX_INPUTS + 2], written = 0;
  for (int i = 0; i < BSK_MAX_INPUTS + 2; ++i) list[i] = u16(v->record + BSK_COL_INPUTS + 2 * i);
  for (v->n_inputs = 0; v->n_inputs < BSK_MAX_INPUTS && list[v->n_inputs] != BSK_NO_TENSOR; ++v->n_inputs) {
    CHECK(list[v->n_inputs] < p->n_tensors, "an op reads a tensor that is not there");
    const tensor t = tensor_at(p, list[v->n_inputs]);
    CHECK(t.born < (int32_t)number && t.dies >= (int32_t)number, "an op reads a tensor before it is written or after its last use");
  }
  for (uint32_t i = v->n_inputs; i < BSK_MAX_INPUTS; ++i) CHECK(list[i] == BSK_NO_TENSOR, "an op's inputs have a gap");
  for (v->n_outputs = 0; v->n_outputs < 2 && list[BSK_MAX_INPUTS + v->n_outputs] != BSK_NO_TENSOR; ++v->n_outputs) {
    const uint32_t to = list[BSK_MAX_INPUTS + v->n_outputs];
    CHECK(to >= p->n_inputs && to < p->n_tensors && tensor_at(p, to).born == (int32_t)number, "an op writes a tensor that another one writes, or none");
    written |= 1u << tensor_at(p, to).dtype;
  }
  CHECK(v->n_inputs >= 1 && v->n_outputs >= 1 && (v->n_outputs == 2 || list[BSK_MAX_INPUTS + 1] == BSK_NO_TENSOR), "an op reads or writes nothing");
  v->in = tensor_at(p, list[0]), v->out = tensor_at(p, list[BSK_MAX_INPUTS]), v->added = tensor_at(p, list[v->n_inputs - 1]);
  if (v->n_outputs == 2) {
    const tensor second = tensor_at(p, list[BSK_MAX_INPUTS + 1]);
    CHECK(list[BSK_MAX_INPUTS] != list[BSK_MAX_INPUTS + 1] && second.dtype != v->out.dtype, "an op has two outputs of one dtype");
    CHECK(second.h == v->out.h && second.w == v->out.w && second.c == v->out.c, "an op's outputs differ in shape");
  }
  for (size_t i = 0; i < COUNT(forms) && !v->form; ++i)
    if (forms[i].op == v->row->code && forms[i].in == v->in.dtype && forms[i].weight == v->record[BSK_COL_WEIGHT_DTYPE] &&
        forms[i].epilogue == v->record[BSK_COL_EPILOGUE] && (written & ~forms[i].writes) == 0)
      v->form = &forms[i];
  CHECK(v->form, "an op has a combination of types that does not exist");
  CHECK(v->n_outputs == 1 || v->form->epilogue == BSK_EPI_FLOAT, "an op has one output too many");
  const uint32_t most = v->row->most;
  v->residual = v->row->residual && v->n_inputs > most;
  CHECK(v->n_inputs - (uint32_t)v->residual <= most && v->n_inputs - (uint32_t)v->residual >= v->row->least, "an op reads too many tensors or too few");
  CHECK(v->residual || v->row->residual != 2, "an add has no residual");
  CHECK(!v->residual || v->form->epilogue != BSK_EPI_THRESHOLD, "a threshold epilogue adds nothing");
  CHECK(v->record[BSK_COL_IN_PLACE] <= (v->row->in_place && v->residual), "an op is in place without a residual");
  if (v->residual) {
    CHECK(v->added.dtype == (v->form->epilogue == BSK_EPI_INTEGER ? BSK_I8 : BSK_F32), "a residual has the wrong dtype");
    CHECK(v->added.h == v->out.h && v->added.w == v->out.w && v->added.c == v->out.c, "a residual differs in shape from the output");
  }
  for (uint32_t i = 0; i < v->n_inputs - (uint32_t)v->residual; ++i) {
    const tensor t = tensor_at(p, list[i]);
    CHECK(t.dtype == v->in.dtype, "an op's inputs differ in dtype");
    CHECK(!v->row->keeps_scale || v->in.dtype != BSK_I8 || (t.scale == v->out.scale && t.zero_point == v->out.zero_point),
          "a scale or zero point changes where it must not");
    v->total += t.c;
    CHECK(i == 0 || (bsk_other_side_fits(v->row->shape, t.h, v->in.h) && bsk_other_side_fits(v->row->shape, t.w, v->in.w) &&
                     bsk_other_channels_fit(v->row->shape, t.c, v->in.c)),
          "an op's inputs have shapes that do not go together");
  }
  return BSK_OK;
}

static bsk_status check_shape(bsk_program *p, uint32_t number, const view *v) {
  const int pool = v->row->pool;
  for (int i = 0; i < 4; ++i) CHECK(v->row->window || u32(v->record + BSK_COL_KERNEL + 4 * i) == 0, "an op without a window has one");
  CHECK(v->row->window || u16(v->record + BSK_COL_PADDING) == 0, "an op without a window has padding");
  for (int axis = 0; axis < 2; ++axis) {
    const uint8_t *steps = v->record + BSK_COL_STEPS + 4 * axis;
    const int64_t side = v->row->window ? axis ? v->kw : v->kh : 1, stride = v->row->window ? u16(steps) : 1, between = u16(steps + 2);
    const int64_t padding = v->record[BSK_COL_PADDING + axis], kernel = (between + 1) * (side - 1) + 1;
    CHECK(side >= 1 && side <= (pool ? BSK_MAX_SIDE : BSK_MAX_KERNEL) && stride >= 1 && kernel <= BSK_MAX_SIDE, "a kernel or stride is out of range");
    CHECK(between == 0 || (!pool && side > 1 && between < BSK_MAX_DILATION), "a dilation is out of range");
    CHECK(padding < kernel && padding < BSK_MAX_KERNEL && (!pool || 2 * padding <= kernel), "padding is too large for its kernel");
    CHECK(bsk_side_follows(v->row->shape, axis ? v->in.w : v->in.h, axis ? v->out.w : v->out.h, kernel, stride, padding),
          "an op's output has the wrong height or width");
  }
  const int64_t taps = v->row->window ? (int64_t)v->kh * v->kw : 1;
  CHECK(taps <= BSK_MAX_POOL_TAPS, "a pool's kernel covers too many pixels");
  CHECK(bsk_channels_follow(v->row->shape, v->in.c, v->total, v->out.c, (int64_t)v->in.h * v->in.w, taps), "an op's output has the wrong number of channels");
  return BSK_OK;
}

/* Columns that only some ops use. */
static bsk_status check_columns(bsk_program *p, uint32_t number, view *v) {
  const uint8_t *r = v->record;
  const uint32_t epilogue = v->form->epilogue, integer = epilogue == BSK_EPI_INTEGER;
  for (int at = 0; at < 2; ++at) { /* pre, post */
    const uint32_t kind = r[BSK_COL_PRE + at], mine = at ? POST : PRE, slope = at ? BIT(POST_SLOPE) : BIT(PRE_SLOPE);
    CHECK(kind < COUNT(activations) && (!integer || kind <= BSK_ACT_RELU), "an activation is unknown");
    CHECK(integer || kind == 0 || (v->form->takes & slope), "an op has an activation that it does not take");
    const uint32_t wanted = (activations[kind].slope ? slope : 0) | (activations[kind].shifts ? mine & ~slope : 0);
    CHECK(integer || (v->given & mine) == wanted, "an activation has vectors that it does not take, or lacks some");
  }
  CHECK((v->form->needs & ~v->given) == 0 && (v->given & ~v->form->takes) == 0, "an op lacks a constant or has one that it does not take");
  int writes_bits = 0;
  for (uint32_t i = 0; i < v->n_outputs; ++i) writes_bits |= tensor_at(p, u16(r + BSK_COL_OUTPUTS + 2 * i)).dtype == BSK_BITS;
  CHECK(epilogue != BSK_EPI_FLOAT || !(v->given & BIT(THRESHOLD)) || writes_bits, "an op has a threshold, but no bits output");
  CHECK(integer ? r[BSK_COL_SHIFT] >= 1 && r[BSK_COL_SHIFT] <= BSK_MAX_SHIFT : r[BSK_COL_SHIFT] == 0 && r[BSK_COL_BIAS_SHIFT] == 0, "a shift is out of range");
  CHECK(r[BSK_COL_BIAS_SHIFT] <= BSK_MAX_BIAS_SHIFT || r[BSK_COL_BIAS_SHIFT] == BSK_WIDE_BIAS, "a bias is not stored with the shift that it should have");
  CHECK((integer && v->residual) || u32(r + BSK_COL_RESIDUAL_MULTIPLIER) == 0, "an op has a residual multiplier, but no residual");
  CHECK(r[BSK_COL_COUNT_PADDING] <= v->row->count_padding, "an op counts padding that it does not have");
  CHECK(v->groups == 0 ? v->row->code != BSK_FILE_CONV2D : v->row->code == BSK_FILE_CONV2D, "a convolution has no groups, or another op has");
  const int32_t pad_value = i8(r + BSK_COL_PAD_VALUE);
  CHECK(pad_value == 0 || (v->row->code == BSK_FILE_CONV2D && v->in.dtype == BSK_BITS && pad_value >= -1 && pad_value <= 1), "a padding value is not 0");
  if (v->row->code != BSK_FILE_CONV2D) return BSK_OK;
  CHECK(v->groups == 1 || v->form->groups, "these types have one group only");
  CHECK(v->in.c % v->groups == 0 && v->out.c % v->groups == 0, "channels do not divide into the groups");
  CHECK(v->in.dtype != BSK_I32 || (v->kh == 1 && v->kw == 1 && v->in.h == 1 && v->in.w == 1), "an i32 input is not a vector");
  return BSK_OK;
}

/* The largest |acc|, or 0 for a float one; below 2^62 in any case. */
static bsk_status accumulator(bsk_program *p, uint32_t number, const view *v, uint64_t *bound) {
  *bound = (uint64_t)bsk_largest_acc(v->row->code, (int64_t)v->in.h * v->in.w);
  CHECK(v->in.dtype != BSK_I8 || *bound < 1ull << 31, "a sum can reach 2^31");
  if (v->row->code != BSK_FILE_CONV2D) return BSK_OK;
  const uint64_t taps = (uint64_t)v->kh * v->kw * (v->in.c / v->groups), weight = v->form->weight == 2 ? 127 : 1;
  uint64_t largest = v->in.dtype == BSK_I8 ? 255 : v->in.dtype == BSK_BITS ? 1 : 0;
  if (v->in.dtype == BSK_I32) {
    const tensor pooled = tensor_at(p, u16(p->ops + (size_t)v->in.born * BSK_RECORD_BYTES + BSK_COL_INPUTS));
    largest = (uint64_t)pooled.h * pooled.w * 255;
  }
  *bound = taps * weight * largest;
  CHECK(v->in.dtype == BSK_I32 || *bound < 1ull << 31, "an accumulator can reach 2^31");
  return BSK_OK;
}

static int64_t bias_at(const view *v, const uint8_t *at, uint64_t i) {
  if (v->record[BSK_COL_BIAS_SHIFT] != BSK_WIDE_BIAS) return (int64_t)i32(at + 4 * i) * ((int64_t)1 << v->record[BSK_COL_BIAS_SHIFT]);
  const uint64_t bits = (uint64_t)u32(at + 8 * i + 4) << 32 | u32(at + 8 * i);
  return bits <= INT64_MAX ? (int64_t)bits : -(int64_t)(UINT64_MAX - bits) - 1;
}

static bsk_status check_integer(bsk_program *p, uint32_t number, const view *v, uint64_t bound) {
  const uint8_t *m = p->bytes + u32(v->record + BSK_COL_CONSTANTS + 4 * BSK_CONST_MULTIPLIER);
  const uint8_t *b = p->bytes + u32(v->record + BSK_COL_CONSTANTS + 4 * BSK_CONST_BIAS);
  uint64_t largest_m = 0, largest_b = 0, together = 0;
  for (uint64_t i = 0; i < v->out.c; ++i) {
    const int64_t mi = i32(m + 4 * i), bi = bias_at(v, b, i);
    const uint64_t am = (uint64_t)(mi < 0 ? -mi : mi), ab = bi < 0 ? (uint64_t)-(bi + 1) + 1 : (uint64_t)bi;
    if (am > largest_m) largest_m = am;
    if (ab > largest_b) largest_b = ab;
    together |= (uint64_t)bi;
  }
  uint32_t zeros = 0; /* the one shift that the file may have: the low bits that are 0 in every bias */
  while (together && zeros < BSK_MAX_BIAS_SHIFT && !(together >> zeros & 1)) ++zeros;
  const int fits = largest_b >> zeros < 1ull << 31;
  CHECK(v->record[BSK_COL_BIAS_SHIFT] == (fits ? zeros : BSK_WIDE_BIAS), "a bias is not stored with the shift that it should have");
  const int64_t r = i32(v->record + BSK_COL_RESIDUAL_MULTIPLIER);
  const uint64_t t = bound * largest_m + largest_b + 255 * (uint64_t)(r < 0 ? -r : r) + (1ull << (v->record[BSK_COL_SHIFT] - 1));
  CHECK(t < 1ull << 62, "an integer epilogue can reach 2^62");
  return BSK_OK;
}

static bsk_status check_constants(bsk_program *p, uint32_t number, const view *v, uint64_t *at, uint64_t end) {
  for (int k = 0; k < BSK_CONST_COUNT; ++k) {
    const uint64_t from = u32(v->record + BSK_COL_CONSTANTS + 4 * k);
    if (from == 0) continue;
    const int weight = k == BSK_CONST_WEIGHT, table = k == BSK_CONST_TABLE, is_weight = weight ? v->form->weight : 0;
    uint64_t n = v->out.c, bits = 32;
    if (weight) n *= (uint64_t)v->kh * v->kw * (v->in.c / v->groups), bits = is_weight == 1 ? 32 : is_weight == 2 ? 8 : 1;
    if (table) n = v->row->channel_tables ? n * 256 : 256, bits = 8;
    if (k == BSK_CONST_FLIP) bits = 1;
    if (k == BSK_CONST_BIAS && v->record[BSK_COL_BIAS_SHIFT] == BSK_WIDE_BIAS) bits = 64;
    const uint64_t bytes = bits == 1 ? (n + 7) / 8 : n * (bits / 8), unit = bytes >= 64 ? 64 : 8;
    CHECK(from == (*at + unit - 1) / unit * unit && from <= end && bytes <= end - from, "a constant is not where it should be");
    for (; *at < from; ++*at) CHECK(p->bytes[*at] == 0, "constants are not followed by zeros");
    *at = from + bytes;
    const uint8_t *c = p->bytes + from;
    if (bits == 1 && n % 8) CHECK(c[bytes - 1] >> (n % 8) == 0, "bits are set beyond the last one");
    if (is_weight == 2)
      for (uint64_t i = 0; i < n; ++i) CHECK(c[i] != 0x80, "an int8 weight is -128");
    const int integers = k == BSK_CONST_MULTIPLIER || (k == BSK_CONST_THRESHOLD && v->form->epilogue == BSK_EPI_THRESHOLD) ||
                         (k == BSK_CONST_BIAS && v->form->epilogue == BSK_EPI_INTEGER);
    if (bits == 32 && !integers)
      for (uint64_t i = 0; i < n; ++i) CHECK((u32(c + 4 * i) & 0x7f800000u) != 0x7f800000u, "a constant is not finite");
  }
  return BSK_OK;
}

static bsk_status check_op(bsk_program *p, uint32_t number, uint64_t *at, uint64_t end, uint64_t *outputs) {
  view v = {.record = p->ops + (size_t)number * BSK_RECORD_BYTES};
  for (size_t i = 0; i < COUNT(rows); ++i)
    if (rows[i].code == v.record[BSK_COL_KIND]) v.row = &rows[i];
  CHECK(v.row, "an op is unknown");
  v.kh = u32(v.record + BSK_COL_KERNEL), v.kw = u32(v.record + BSK_COL_KERNEL + 4), v.groups = u32(v.record + BSK_COL_GROUPS);
  for (int k = 0; k < BSK_CONST_COUNT; ++k) v.given |= (uint32_t)(u32(v.record + BSK_COL_CONSTANTS + 4 * k) != 0) << k;
  TRY(check_places(p, number, &v));
  TRY(check_columns(p, number, &v));
  TRY(check_shape(p, number, &v));
  TRY(check_constants(p, number, &v, at, end));
  uint64_t bound;
  TRY(accumulator(p, number, &v, &bound));
  if (v.form->epilogue == BSK_EPI_INTEGER) TRY(check_integer(p, number, &v, bound));
  *outputs += v.n_outputs;
  return BSK_OK;
}

/* ---- The whole file ---------------------------------------------------------------------------------------------------- */

bsk_status bsk_open(const void *bytes, size_t size, bsk_program *p) {
  const uint8_t *b = (const uint8_t *)bytes;
  uint32_t number = 0;
  memset(p, 0, sizeof *p);
  CHECK(b && (uintptr_t)b % 8 == 0, "the bytes do not lie at a multiple of 8");
  CHECK(size >= BSK_HEADER_BYTES && size <= BSK_MAX_BYTES && memcmp(b, "BITSKIP", 8) == 0, "this is not a .bitskip file of format version 2");
  CHECK(u32(b + 8) == 2, "the file's format version is not 2");
  CHECK(u32(b + 16) == size, "the file is cut off, or followed by other bytes");
  CHECK(u32(b + 12) == crc32(b + 16, size - 16), "the checksum does not match");
  p->bytes = b;
  p->n_tensors = u32(b + 20), p->n_ops = u32(b + 24), p->n_outputs = u32(b + 28), p->n_classes = u32(b + 32);
  p->arena_bytes = u32(b + 36), p->names_bytes = u32(b + 44), p->json_bytes = u32(b + 48), p->n_inputs = u32(b + 52);
  const uint64_t constants = u32(b + 40), end = BSK_HEADER_BYTES + constants;
  CHECK(p->n_tensors >= 1 && p->n_tensors <= BSK_MAX_TENSORS && p->n_ops >= 1 && p->n_ops <= BSK_MAX_OPS && p->n_outputs >= 1 &&
            p->n_outputs <= BSK_MAX_OUTPUTS && p->arena_bytes <= BSK_MAX_BYTES && constants % 8 == 0,
        "the header is out of range");
  CHECK(p->n_inputs++ < BSK_MAX_PICTURES && p->n_inputs <= p->n_tensors, "there are more inputs than there may be");
  for (int i = 56; i < BSK_HEADER_BYTES; ++i) CHECK(b[i] == 0, "the header holds more than it should");
  const uint64_t ops = end + (uint64_t)p->n_tensors * BSK_TENSOR_BYTES, outputs = ops + (uint64_t)p->n_ops * BSK_RECORD_BYTES,
                 names = outputs + 4 * (uint64_t)p->n_outputs;
  CHECK(names + p->names_bytes + p->json_bytes == size, "the parts do not make up the file");
  p->tensors = b + end, p->ops = b + ops, p->outputs = b + outputs;
  p->names = (const char *)b + names, p->json = p->names + p->names_bytes;
  TRY(check_names(p));
  for (number = 0; number < p->n_tensors; ++number) TRY(check_tensor(p, number));
  uint64_t at = BSK_HEADER_BYTES, written = p->n_inputs;
  for (number = 0; number < p->n_ops; ++number) TRY(check_op(p, number, &at, end, &written));
  CHECK(written == p->n_tensors, "a tensor is never written");
  CHECK((at + 7) / 8 * 8 == end, "there are more constants than the ops use");
  for (; at < end; ++at) CHECK(b[at] == 0, "constants are not followed by zeros");
  TRY(check_ends(p));
  for (number = 0; number < p->n_tensors; ++number) TRY(check_last_read(p, number));
  return check_aliasing(p);
}
