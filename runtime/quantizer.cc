#include "runtime/quantizer.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "runtime/operand_check.h"
#include "templates/params.cuh"

namespace kiln::runtime {
namespace {

// What one CTA casts, as templates/quantize.cuh says.
struct CtaShape {
  std::int64_t rows, cols;
};
constexpr CtaShape kRowsCta{32, 512};
constexpr CtaShape kBlockCta{128, 128};

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
  const std::int64_t scale_rows = per_row ? o.rows : jit::scale_blocks(o.rows);
  const std::int64_t scale_cols = jit::scale_blocks(o.cols);
  if (spec_.scale_major == jit::ScaleMajor::kM) {
    check_operand({"scales", "ld_scales", o.scales, o.ld_scales, scale_cols, scale_rows, 1, 4, 4});
  } else {
    check_operand({"scales", "ld_scales", o.scales, o.ld_scales, scale_rows, scale_cols, 1, 4, 4});
  }
}

std::uint32_t Quantizer::num_ctas(const kiln_quantize_operands& o) const {
  const CtaShape cta = spec_.granularity == jit::ScaleGranularity::k1x128 ? kRowsCta : kBlockCta;
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
  const device::QuantizeParams params{o.in,     o.out,       o.scales, o.ld_in,
                                      o.ld_out, o.ld_scales, o.rows,   o.cols,      nullptr,    nullptr,    0,       0};
  kernel->launch(ctas, &params, stream);
}

}  // namespace kiln::runtime
