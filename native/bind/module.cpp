// The only file that knows Python: descriptions of operations in, one call an inference out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "session.hpp"

extern "C" {
#include "dispatch.h"
}

namespace nb = nanobind;
using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

namespace {

int integer(const nb::dict &d, const char *key, int otherwise) { return d.contains(key) ? nb::cast<int>(d[key]) : otherwise; }

double real(const nb::dict &d, const char *key, double otherwise) { return d.contains(key) ? nb::cast<double>(d[key]) : otherwise; }

// A tensor is (dtype, h, w, c, zero_point, offset).
bsk_tensor tensor(const nb::dict &d, const char *key) {
  bsk_tensor t = {BSK_NO_DTYPE, 0, 0, 0, 0, BSK_AT_NONE};
  if (!d.contains(key)) return t;
  const nb::tuple v = nb::cast<nb::tuple>(d[key]);
  if (v.size() != 6) throw std::invalid_argument("a tensor is (dtype, h, w, c, zero_point, offset)");
  t.dtype = nb::cast<int>(v[0]);
  t.h = nb::cast<int>(v[1]);
  t.w = nb::cast<int>(v[2]);
  t.c = nb::cast<int>(v[3]);
  t.zero_point = nb::cast<int>(v[4]);
  t.offset = nb::cast<std::int64_t>(v[5]);
  return t;
}

// Constants of a description: each is checked for dtype and length before the engine reads it.
class Constants {
 public:
  template <class T>
  const T *get(const nb::dict &d, const char *key, std::int64_t count) {
    if (!d.contains(key) || d[key].is_none()) return nullptr;
    Array a = nb::cast<Array>(d[key]);
    if (a.dtype() != nb::dtype<T>()) throw std::invalid_argument(std::string("constant ") + key + " has the wrong dtype");
    if (count < 0 || a.size() != static_cast<std::size_t>(count))
      throw std::invalid_argument(std::string("constant ") + key + " has " + std::to_string(a.size()) + " elements, expected " + std::to_string(count));
    kept_.push_back(a);
    return static_cast<const T *>(a.data());
  }

 private:
  std::vector<Array> kept_;
};

bsk_act activation(Constants &k, const nb::dict &d, const std::string &which, int channels) {
  bsk_act act = {integer(d, which.c_str(), BSK_ACT_NONE), nullptr, nullptr, nullptr};
  act.slope = k.get<float>(d, (which + "_slope").c_str(), channels);
  act.shift_in = k.get<float>(d, (which + "_shift_in").c_str(), channels);
  act.shift_out = k.get<float>(d, (which + "_shift_out").c_str(), channels);
  return act;
}

bsk_op operation(Constants &k, const nb::dict &d) {
  bsk_op op = {};
  op.kind = integer(d, "kind", -1);
  op.in = tensor(d, "in");
  op.residual = tensor(d, "residual");
  op.more[0] = tensor(d, "more0");
  op.more[1] = tensor(d, "more1");
  op.groups = integer(d, "groups", 1);
  op.out_f32 = tensor(d, "out_f32");
  op.out_bits = tensor(d, "out_bits");
  op.out_i8 = tensor(d, "out_i8");
  op.kh = integer(d, "kh", 1);
  op.kw = integer(d, "kw", 1);
  op.sh = integer(d, "sh", 1);
  op.sw = integer(d, "sw", 1);
  op.ph = integer(d, "ph", 0);
  op.pw = integer(d, "pw", 0);
  op.gap_h = integer(d, "gap_h", 0);
  op.gap_w = integer(d, "gap_w", 0);
  op.pad_value = integer(d, "pad_value", 0);
  op.weight_dtype = integer(d, "weight_dtype", BSK_NO_DTYPE);
  op.in_scale = static_cast<float>(real(d, "in_scale", 1.0));
  op.pool_scale = static_cast<float>(real(d, "pool_scale", 1.0));
  op.count_padding = integer(d, "count_padding", 0);
  const bsk_tensor &out = op.out_f32.offset != BSK_AT_NONE ? op.out_f32 : op.out_bits.offset != BSK_AT_NONE ? op.out_bits : op.out_i8;
  const std::int64_t o = out.c, taps = static_cast<std::int64_t>(op.kh) * op.kw, i = op.in.c;
  const bool sane = o > 0 && o <= 1 << 20 && i > 0 && i <= 1 << 20 && op.kh > 0 && op.kw > 0 && op.kh <= 1 << 16 && op.kw <= 1 << 16;
  if (!sane) throw std::invalid_argument("an operation has a channel count or kernel side out of range");
  if (op.weight_dtype == BSK_F32) op.weights = k.get<float>(d, "weights", o * taps * i);
  if (op.weight_dtype == BSK_I8) op.weights = k.get<std::int8_t>(d, "weights", o * taps * i);
  if (op.weight_dtype == BSK_BITS) op.weights = k.get<std::uint64_t>(d, "weights", o * taps * ((i + 63) / 64));
  op.table = k.get<std::uint8_t>(d, "table", i * 256);
  op.epi.kind = integer(d, "epilogue", BSK_EPI_NONE);
  op.epi.scale = k.get<float>(d, "scale", o);
  op.epi.bias = k.get<float>(d, "bias", o);
  op.epi.pre = activation(k, d, "pre", out.c);
  op.epi.post = activation(k, d, "post", out.c);
  op.epi.threshold = k.get<float>(d, "threshold", o);
  op.epi.inv_scale = static_cast<float>(real(d, "inv_scale", 1.0));
  op.epi.t = k.get<std::int32_t>(d, "t", o);
  op.epi.flip = k.get<std::uint8_t>(d, "flip", (o + 7) / 8);
  op.epi.m = k.get<std::int32_t>(d, "m", o);
  op.epi.b = k.get<std::int64_t>(d, "b", o);
  op.epi.shift = integer(d, "shift", 1);
  op.epi.residual_m = integer(d, "residual_m", 0);
  return op;
}

// Open a copy of `content` on a boundary of 64 bytes; the error, or NULL.
const char *open(const nb::bytes &content, bool guarded, std::vector<bitskip::Block> &block, bsk_program &program) {
  block.emplace_back(content.size(), guarded && content.size() % 8 == 0);
  std::memcpy(block[0].data(), content.data(), content.size());
  return bsk_open(block[0].data(), content.size(), &program) == BSK_OK ? nullptr : program.error;
}

class Engine {
 public:
  Engine(const nb::list &ops, std::size_t arena_bytes, int isa, int threads, bool guarded)
      : session_(operations(ops), arena_bytes, static_cast<bsk_isa>(isa), checked(threads), guarded) {
    made();
  }

  // From the content of a file.
  Engine(const nb::bytes &content, int isa, int threads, bool guarded)
      : session_{opened(content, guarded), program_.arena_bytes, static_cast<bsk_isa>(isa), checked(threads), guarded} /* in this order */ {
    made();
  }

  // `outs` are (N, H, W, C) each, filled from the arena at `offsets`.
  using Result = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
  void run(nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu> images, const std::vector<Result> &outs,
           const std::vector<std::size_t> &offsets) {
    const std::size_t n = images.shape(0);
    if (images.shape(1) * images.shape(2) * images.shape(3) != image_bytes_) throw std::invalid_argument("an image has the wrong size");
    if (outs.size() != offsets.size()) throw std::invalid_argument("results and offsets differ in number");
    std::vector<bitskip::Output> outputs;
    for (std::size_t i = 0; i < outs.size(); ++i) {
      const std::size_t floats = outs[i].shape(1) * outs[i].shape(2) * outs[i].shape(3);
      if (outs[i].shape(0) != n) throw std::invalid_argument("images and results differ in number");
      if (offsets[i] % 4 || offsets[i] > session_.arena().size() || floats * 4 > session_.arena().size() - offsets[i])
        throw std::invalid_argument("a result lies outside the arena");
      outputs.push_back({outs[i].data(), offsets[i], floats});
    }
    const std::uint8_t *from = images.data();
    nb::gil_scoped_release unlocked;
    session_.run(from, n, image_bytes_, outputs);
  }

  // Nanoseconds of every operation on all images, at most `batch` side by side, one thread, `repeats` passes: rows are passes.
  std::vector<std::vector<double>> profile(nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu> images, int repeats) {
    const std::size_t n = images.shape(0);
    if (n == 0 || images.size() != n * image_bytes_) throw std::invalid_argument("an image has the wrong size");
    if (n > session_.batch()) throw std::invalid_argument("so many images do not run side by side");
    const std::size_t n_ops = bsk_engine_ops(session_.engine());
    std::vector<std::vector<double>> result(static_cast<std::size_t>(repeats), std::vector<double>(n_ops));
    const std::uint8_t *from = images.data();
    nb::gil_scoped_release unlocked;
    const auto alone = session_.alone();
    for (auto &pass : result) {
      auto before = std::chrono::steady_clock::now();
      for (std::size_t op = 0; op < n_ops; ++op) {
        if (n == 1)
          session_.run_op(op, from, 0, 1);
        else if (!session_.run_op_on(op, from, image_bytes_, n))
          throw std::bad_alloc();
        const auto after = std::chrono::steady_clock::now();
        pass[op] = std::chrono::duration<double, std::nano>(after - before).count();
        before = after;
      }
    }
    return result;
  }

  // For tests of single operations: the arena of the first thread, and a run without an input picture.
  void write(std::size_t offset, nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> data) {
    in_arena(offset, data.size());
    std::memcpy(session_.arena().data() + offset, data.data(), data.size());
  }
  nb::bytes read(std::size_t offset, std::size_t bytes) {
    in_arena(offset, bytes);
    return nb::bytes(session_.arena().data() + offset, bytes);
  }
  void run_op(std::size_t op, int part, int parts) {
    if (image_bytes_) throw std::invalid_argument("run_op is for engines without an input picture");
    if (op >= bsk_engine_ops(session_.engine()) || parts < 1 || part < 0 || part >= parts) throw std::invalid_argument("no such operation or part");
    session_.run_op(op, nullptr, part, parts);
  }

  std::vector<std::string> kernels() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < bsk_engine_ops(session_.engine()); ++i) names.emplace_back(bsk_engine_kernel(session_.engine(), i));
    return names;
  }
  std::vector<bool> together() const {
    std::vector<bool> found;
    for (std::size_t i = 0; i < bsk_engine_ops(session_.engine()); ++i) found.push_back(bsk_engine_together(session_.engine(), i) != 0);
    return found;
  }
  std::size_t constant_bytes() const { return session_.engine_bytes(); }
  std::size_t scratch_bytes() const { return session_.scratch_bytes(); }
  std::size_t batch() const { return session_.batch(); }
  std::size_t batch_bytes() const { return session_.batch_bytes(); }

 private:
  void made() {
    for (const bsk_op &op : described_)
      if (op.in.offset <= BSK_AT_INPUT) image_bytes_ = std::max(image_bytes_, read_bytes(op.in));
    if (program_.n_inputs) image_bytes_ = bsk_program_image_bytes(&program_); /* those that no op reads too */
    constants_ = Constants();                                                 /* repacked: not needed any more */
    described_.clear();
    content_.clear();
  }
  // Bytes from the start of an image to the end of the input `t`.
  static std::size_t read_bytes(const bsk_tensor &t) {
    return static_cast<std::size_t>(BSK_AT_INPUT - t.offset) + static_cast<std::size_t>(t.h) * static_cast<std::size_t>(t.w) * static_cast<std::size_t>(t.c);
  }
  const std::vector<bsk_op> &opened(const nb::bytes &content, bool guarded) {
    const char *at = open(content, guarded, content_, program_);
    if (at) throw std::invalid_argument(at);
    described_.resize(program_.n_ops);
    for (std::uint32_t i = 0; i < program_.n_ops; ++i) bsk_program_op(&program_, i, &described_[i]);
    return described_;
  }
  const std::vector<bsk_op> &operations(const nb::list &ops) {
    for (nb::handle d : ops) described_.push_back(operation(constants_, nb::cast<nb::dict>(d)));
    return described_;
  }
  static int checked(int threads) {
    if (threads < 1 || threads > 256) throw std::invalid_argument("threads must be in 1..256");
    return threads;
  }
  void in_arena(std::size_t offset, std::size_t bytes) {
    if (offset > session_.arena().size() || bytes > session_.arena().size() - offset) throw std::invalid_argument("outside the arena");
  }

  Constants constants_;
  std::vector<bsk_op> described_;
  std::vector<bitskip::Block> content_; /* none or one */
  bsk_program program_ = {};
  bitskip::Session session_;
  std::size_t image_bytes_ = 0;
};

// Multiply-accumulates a nanosecond of a kernel's tile alone: the most of many short runs. 0 where this machine cannot run it.
double tile_rate(const std::string &name) {
  for (std::size_t i = 0; bsk_conv_variant(i); ++i) {
    const bsk_conv_kernel *kernel = bsk_conv_variant(i);
    if (name != kernel->name) continue;
    if (!bsk_conv_runs_here(kernel)) return 0.0;
    bitskip::Block memory(DRILL_BYTES, false);
    double best = 0.0;
    nb::gil_scoped_release unlocked;
    for (int run = 0; run < 400; ++run) {
      const auto before = std::chrono::steady_clock::now();
      const double macs = bsk_tile_drill(kernel, memory.data(), DRILL_BYTES, 4);
      const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - before).count();
      if (ns > 0.0 && macs / ns > best) best = macs / ns;
    }
    return best;
  }
  throw std::invalid_argument("there is no convolution kernel " + name);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false); /* a thread that predicts while the interpreter ends keeps its engine: no fault */
  m.doc() = "The native runtime: engines built from descriptions of operations (see bitskip.backends.native).";
  m.def("cpu_features", &bsk_cpu_features, "Bits of the BSK_CPU_ constants.");
  m.def("limit_cpu", &bsk_cpu_limit, nb::arg("allowed"), "Hide features from engines made later, for tests; 0xffffffff shows all.");
  m.def(
      "conv_kernels",
      [] {
        std::vector<std::string> names;
        for (std::size_t i = 0; bsk_conv_variant(i); ++i) names.emplace_back(bsk_conv_variant(i)->name);
        return names;
      },
      "Names of the convolution kernels in this build, whether this machine can run them or not.");
  m.def(
      "prefer_conv", [](const std::string &name) { bsk_conv_prefer(name.c_str()); }, nb::arg("name"),
      "Take this convolution kernel wherever it can run, in engines made later, for tests and timing; '' takes the usual ones again.");
  m.def("tile_rate", &tile_rate, nb::arg("name"), "Multiply-accumulates a nanosecond of a convolution kernel's tile alone; 0 where it cannot run.");
  m.def(
      "instruction_sets",
      [] {
        std::vector<std::tuple<std::string, int, std::uint32_t>> sets;
        for (std::size_t i = 0; const bsk_instruction_set *set = bsk_instruction_set_at(i); ++i) sets.emplace_back(set->name, set->asked, set->feature);
        return sets;
      },
      "Name, number to ask for (-1: it comes with its family) and BSK_CPU_ bit of every instruction set, of any processor.");
  m.def("isa_available", [](int isa) { return bsk_isa_available(static_cast<bsk_isa>(isa)) != 0; }, nb::arg("isa"));
  m.def(
      "check",
      [](const nb::bytes &content) {
        std::vector<bitskip::Block> block;
        bsk_program program;
        const char *error = open(content, true, block, program);
        return std::string(error ? error : "");
      },
      nb::arg("content"), "Why bsk_open refuses the content of a file; empty if it does not.");
  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const nb::bytes &, int, int, bool>(), nb::arg("content"), nb::arg("isa"), nb::arg("threads") = 1, nb::arg("guarded") = false)
      .def(nb::init<const nb::list &, std::size_t, int, int, bool>(), nb::arg("ops"), nb::arg("arena_bytes"), nb::arg("isa"), nb::arg("threads") = 1,
           nb::arg("guarded") = false)
      .def("run", &Engine::run, nb::arg("images"), nb::arg("outs"), nb::arg("offsets"))
      .def("profile", &Engine::profile, nb::arg("images"), nb::arg("repeats"))
      .def("write", &Engine::write, nb::arg("offset"), nb::arg("data"))
      .def("read", &Engine::read, nb::arg("offset"), nb::arg("bytes"))
      .def("run_op", &Engine::run_op, nb::arg("op"), nb::arg("part") = 0, nb::arg("parts") = 1)
      .def_prop_ro("kernels", &Engine::kernels)
      .def_prop_ro("together", &Engine::together)
      .def_prop_ro("constant_bytes", &Engine::constant_bytes)
      .def_prop_ro("scratch_bytes", &Engine::scratch_bytes)
      .def_prop_ro("batch", &Engine::batch)
      .def_prop_ro("batch_bytes", &Engine::batch_bytes);
}
