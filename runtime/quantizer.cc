#include "runtime/quantizer.h"

#include <fmt/format.h>

#include <limits>
#include <type_traits>
#include <utility>

#include "runtime/operand_check.h"
#include "templates/params.cuh"

namespace kiln::runtime {
namespace {

// What one CTA casts, as templates/quantize.cuh and quantize_two_way.cuh say.
struct CtaShape {
  std::int64_t rows, cols;
};
constexpr CtaShape kRowsCta{32, 512};
constexpr CtaShape kBlockCta{128, 128};

constexpr std::int64_t kTransposedUnit = 16;  // rows of out_t are written in units of 16 bytes

template <class T>
void refuse_transposed(const char* field, T value) {
  if (value == T{}) [[likely]]
    return;
  throw Error(
      Status::kInvalidArgument,
      fmt::format("{} must be {} without two_way, got {}: create the quantizer with two_way "
                  "= 1, or clear out_t, ld_out_t, scales_t and ld_scales_t",
                  field, std::is_pointer_v<T> ? "NULL" : "0", value));
}

void check_transposed_stride(const kiln_quantize_operands& o, std::int64_t padded_rows) {
  if (o.out_t == nullptr || o.ld_out_t >= padded_rows) [[likely]]
    return;
  throw Error(
      Status::kInvalidArgument,
      fmt::format("ld_out_t must be at least {} (rows of out_t are filled up with zeros to a "
                  "multiple of {} elements, and rows is {}), got {}: pad the rows of out_t",
                  padded_rows, kTransposedUnit, o.rows, o.ld_out_t));
}

}  // namespace

Quantizer::Quantizer(std::shared_ptr<Engine> engine, const jit::QuantizeSpec& spec)
    : engine_(std::move(engine)), spec_(spec) {
  jit::validate(spec_);
}

void Quantizer::prepare() {
  engine_->refuse_in_capture("kiln_quantizer_prepare");
  if (engine_->has_device()) {
    kernel_.store(&engine_->kernel_for(kernel_spec()), std::memory_order_release);
  } else {
    engine_->prepare(kernel_spec());
  }
}

void Quantizer::check(const kiln_quantize_operands& o) const {
  check_range("rows", o.rows, 0, jit::kMaxM, "the extents that the GEMMs take");
  check_range("cols", o.cols, 16, jit::kMaxM, "the extents that the GEMMs take");
  check_multiple("cols", o.cols, 16, "FP8 rows are written in 16-byte units");
  if (o.rows == 0) return;
  const std::int32_t in_bytes = spec_.in == jit::QuantizeInput::kBf16 ? 2 : 4;
  check_operand({"in", "ld_in", o.in, o.ld_in, o.rows, o.cols, 16 / in_bytes, 16, in_bytes});
  check_operand({"out", "ld_out", o.out, o.ld_out, o.rows, o.cols, 16, 16, 1});
  const bool per_row = spec_.granularity == jit::ScaleGranularity::k1x128;
  check_scales("scales", "ld_scales", o.scales, o.ld_scales,
               per_row ? o.rows : jit::scale_blocks(o.rows), jit::scale_blocks(o.cols));
  check_transposed(o);
}

void Quantizer::check_scales(const char* name, const char* stride_name, const float* scales,
                             std::int64_t stride, std::int64_t rows, std::int64_t blocks) const {
  if (spec_.scale_major == jit::ScaleMajor::kM) std::swap(rows, blocks);
  check_operand({name, stride_name, scales, stride, rows, blocks, 1, 4, 4});
}

void Quantizer::check_transposed(const kiln_quantize_operands& o) const {
  if (!spec_.two_way) {
    refuse_transposed<const void*>("out_t", o.out_t);
    refuse_transposed("ld_out_t", o.ld_out_t);
    refuse_transposed<const void*>("scales_t", o.scales_t);
    refuse_transposed("ld_scales_t", o.ld_scales_t);
    return;
  }
  const std::int64_t padded_rows = jit::round_up(o.rows, kTransposedUnit);
  check_transposed_stride(o, padded_rows);
  check_operand(
      {"out_t", "ld_out_t", o.out_t, o.ld_out_t, o.cols, padded_rows, kTransposedUnit, 16, 1});
  const bool per_column = spec_.granularity == jit::ScaleGranularity::k1x128;
  check_scales("scales_t", "ld_scales_t", o.scales_t, o.ld_scales_t,
               per_column ? o.cols : jit::scale_blocks(o.cols), jit::scale_blocks(o.rows));
}

std::uint32_t Quantizer::num_ctas(const kiln_quantize_operands& o) const {
  const bool per_row = spec_.granularity == jit::ScaleGranularity::k1x128;
  const CtaShape cta = per_row && !spec_.two_way ? kRowsCta : kBlockCta;
  const std::int64_t ctas = jit::ceil_div(o.rows, cta.rows) * jit::ceil_div(o.cols, cta.cols);
  if (ctas <= std::numeric_limits<std::int32_t>::max()) [[likely]]
    return static_cast<std::uint32_t>(ctas);
  throw Error(
      Status::kInvalidArgument,
      fmt::format(
          "rows x cols must give at most 2^31-1 CTAs of {} x {}, got {} x {}: split the rows "
          "over several calls",
          cta.rows, cta.cols, o.rows, o.cols));
}

void Quantizer::launch(const kiln_quantize_operands& o, CUstream stream) const {
  const Device& gpu = engine_->device();
  check(o);
  if (o.rows == 0) return;
  const std::uint32_t ctas = num_ctas(o);
  const LoadedKernel* kernel = kernel_.load(std::memory_order_acquire);
  if (kernel == nullptr) [[unlikely]] {
    kernel = &engine_->kernel_at_launch(kernel_spec(), stream);
    kernel_.store(kernel, std::memory_order_release);
  }
  const ContextScope scope(gpu.driver(), gpu.context());
  const device::QuantizeParams params{o.in,     o.out,       o.scales,   o.ld_in,
                                      o.ld_out, o.ld_scales, o.rows,     o.cols,
                                      o.out_t,  o.scales_t,  o.ld_out_t, o.ld_scales_t};
  kernel->launch(ctas, &params, stream);
}

}  // namespace kiln::runtime
