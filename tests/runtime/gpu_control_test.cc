// Launches that do what a sanitizer of the GPU has to report. Hidden: what they do outside one is
// undefined. tests/gate/sanitize runs them, so that its silence about the other tests means
// something.
#include "tests/runtime/gpu_support.h"

namespace kiln::test {
namespace {

constexpr std::int64_t kRows = 256, kCols = 512;

// Casts [kRows, kCols] BF16; `in` and `out` may be too small, or never written.
void cast(const Gpu& gpu, const runtime::DeviceBuffer& in, const runtime::DeviceBuffer& out) {
  const runtime::DeviceBuffer scales(gpu.device(), kRows * kCols / 128 * sizeof(float));
  kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
  kiln_quantizer* quantizer = nullptr;
  KILN_CHECK_OK(kiln_quantizer_create(gpu.handle(), &problem, &quantizer));
  kiln_quantize_operands o = KILN_QUANTIZE_OPERANDS_INIT;
  o.rows = kRows;
  o.cols = o.ld_in = o.ld_out = kCols;
  o.in = in.data();
  o.out = out.data();
  o.scales = scales.data<float>();
  o.ld_scales = kCols / 128;
  KILN_CHECK_OK(kiln_quantize(quantizer, &o, gpu.stream()));
  gpu.synchronize();
  kiln_quantizer_destroy(quantizer);
}

}  // namespace

TEST_CASE("a cast writes behind its result", "[.][control-memcheck]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const auto in =
      runtime::DeviceBuffer::of(gpu.device(), std::vector<std::uint16_t>(kRows * kCols));
  const runtime::DeviceBuffer out(gpu.device(), kRows * kCols - 1024);
  cast(gpu, in, out);
}

TEST_CASE("a cast reads what was never written", "[.][control-initcheck]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  const runtime::DeviceBuffer in(gpu.device(), kRows * kCols * 2);
  const runtime::DeviceBuffer out(gpu.device(), kRows * kCols);
  cast(gpu, in, out);
}

}  // namespace kiln::test
