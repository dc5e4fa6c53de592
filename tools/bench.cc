#include "tools/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "templates/params.cuh"

namespace kiln::tools {
namespace {

// Beyond any L2, so that writing it leaves nothing of the operands there.
constexpr std::size_t kFlushBytes = std::size_t{512} << 20;
constexpr double kLargestDifference = 0.001;
constexpr int kWarmUps = 2;

Peak peak_of(const runtime::DeviceInfo& info, int num_sms) {
  constexpr double kFlopsPerClock = 8192;  // of one Hopper SM: dense FP8, a multiply-add is two
  Peak peak;
  peak.tflops = num_sms * kFlopsPerClock * info.clock_khz * 1e3 / 1e12;
  peak.gb_per_s =
      2.0 * info.memory_clock_khz * 1e3 * info.memory_bus_bits / 8 / 1e9;  // double data rate
  return peak;
}

std::size_t bytes(std::int64_t rows, std::int64_t columns, std::int64_t element_bytes) {
  // At least one element: an empty allocation has no address.
  return static_cast<std::size_t>(std::max<std::int64_t>(rows * columns, 1) * element_bytes);
}

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return jit::ceil_div(value, unit) * unit;
}

device::ReferenceParams reference_params(const jit::Problem& p, const kiln_operands& launch,
                                         const float* c, double* sums) {
  device::ReferenceParams params{};
  params.a = launch.a;
  params.b = launch.b;
  params.sfa = launch.sfa;
  params.sfb = launch.sfb;
  params.d = launch.d;
  params.c = c;
  params.sums = sums;
  params.lda = launch.lda;
  params.ldb = launch.ldb;
  params.ld_sfa = launch.ld_sfa;
  params.ld_sfb = launch.ld_sfb;
  params.ldd = launch.ldd;
  params.m = launch.m;
  params.n = p.n;
  params.k = p.k;
  return params;
}

}  // namespace

struct Bench::Operands {
  runtime::DeviceBuffer a, b, sfa, sfb, d;
  runtime::DeviceBuffer c;  // D before the launch; accumulating only
  kiln_operands launch = KILN_OPERANDS_INIT;
};

Bench::Bench(const EngineHandle& engine, const BenchOptions& options)
    : handle_(engine),
      engine_(engine.engine()),
      device_(engine_.device()),
      options_(options),
      peak_(peak_of(device_.info(), engine_.num_sms())),
      stream_(device_),
      flush_(device_, kFlushBytes) {}

void Bench::fill(const runtime::DeviceBuffer& buffer, std::uint64_t count, std::uint64_t seed) {
  if (count == 0) return;
  const runtime::LoadedKernel& kernel = engine_.kernel_for({jit::FillSpec{}, engine_.arch()});
  const runtime::ContextScope scope(device_.driver(), device_.context());
  const device::FillParams params{buffer.data(), count, seed};
  kernel.launch(static_cast<std::uint32_t>(device_.info().num_sms) * 4, &params, stream_.get());
}

void Bench::quantize(const runtime::DeviceBuffer& in, std::int64_t rows, std::int64_t cols,
                     int type, int granularity, int scale_major, const runtime::DeviceBuffer& out,
                     const runtime::DeviceBuffer& scales, std::int64_t ld_scales) {
  kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
  problem.in_type = KILN_TYPE_BF16;
  problem.out_type = type;
  problem.granularity = granularity;
  problem.scale_major = scale_major;
  QuantizerHandle quantizer;
  check(kiln_quantizer_create(handle_.get(), &problem, quantizer.out()));
  check(kiln_quantizer_prepare(quantizer.get()));
  kiln_quantize_operands operands = KILN_QUANTIZE_OPERANDS_INIT;
  operands.rows = rows;
  operands.cols = cols;
  operands.in = in.data();
  operands.ld_in = cols;
  operands.out = out.data();
  operands.ld_out = cols;
  operands.scales = scales.data<float>();
  operands.ld_scales = ld_scales;
  check(kiln_quantize(quantizer.get(), &operands, stream_.get()));
  stream_.synchronize();  // the caller frees `in`
}

// Before anything is allocated, and in floating point: the sizes may be beyond 64 bits.
void Bench::require_memory(const BenchCase& c) const {
  const double m = static_cast<double>(c.m), n = static_cast<double>(c.problem.n),
               k = static_cast<double>(c.problem.k);
  const double d_bytes = m * n * static_cast<double>(jit::element_bytes(c.problem.out));
  const double needed =
      m * k + n * k + 2 * std::max(m, n) * k + d_bytes * (c.problem.accumulate ? 2 : 1);
  const double there = static_cast<double>(device_.info().memory_bytes);
  if (needed <= there) return;
  throw Error(
      Status::kOutOfMemory,
      fmt::format("the operands take {:.1f} GiB, the GPU has {:.1f} GiB: use a smaller M, N or K",
                  needed / (1 << 30), there / (1 << 30)));
}

Bench::Operands Bench::make_operands(const BenchCase& c) {
  const jit::Problem& p = c.problem;
  const kiln_problem problem = to_c(p);
  const std::int64_t blocks = jit::scale_blocks(p.k);
  const bool row_major = p.sfa_major == jit::ScaleMajor::kRow;
  const std::int64_t ld_sfa = row_major ? blocks : std::max<std::int64_t>(round_up(c.m, 4), 4);
  Operands o;
  o.a = runtime::DeviceBuffer(device_, bytes(c.m, p.k, 1));
  o.b = runtime::DeviceBuffer(device_, bytes(p.n, p.k, 1));
  o.sfa = runtime::DeviceBuffer(device_, bytes(row_major ? c.m : blocks, ld_sfa, sizeof(float)));
  o.sfb = runtime::DeviceBuffer(device_, bytes(jit::scale_blocks(p.n), blocks, sizeof(float)));
  o.d = runtime::DeviceBuffer(device_, bytes(c.m, p.n, jit::element_bytes(p.out)));
  {
    const runtime::DeviceBuffer wide(device_, bytes(std::max(c.m, p.n), p.k, 2));
    fill(wide, static_cast<std::uint64_t>(c.m * p.k), options_.seed);
    quantize(wide, c.m, p.k, problem.a_type, KILN_SCALE_1X128, problem.sfa_major, o.a, o.sfa,
             ld_sfa);
    fill(wide, static_cast<std::uint64_t>(p.n * p.k), options_.seed + 1);
    quantize(wide, p.n, p.k, problem.b_type, KILN_SCALE_128X128, KILN_SCALE_ROW_MAJOR, o.b, o.sfb,
             blocks);
  }
  // NaN everywhere: what the kernel leaves unwritten shows in the check.
  o.d.fill(0xff, stream_.get());
  if (p.accumulate) {
    // Two BF16 values make one FP32 value: the upper one, with random lower mantissa bits.
    const auto count = static_cast<std::uint64_t>(c.m * p.n) * 2;
    o.c = runtime::DeviceBuffer(device_, o.d.size());
    fill(o.c, count, options_.seed + 2);
    fill(o.d, count, options_.seed + 2);
  }
  o.launch.m = c.m;
  o.launch.a = o.a.data();
  o.launch.lda = p.k;
  o.launch.b = o.b.data();
  o.launch.ldb = p.k;
  o.launch.sfa = o.sfa.data<float>();
  o.launch.ld_sfa = ld_sfa;
  o.launch.sfb = o.sfb.data<float>();
  o.launch.ld_sfb = blocks;
  o.launch.d = o.d.data();
  o.launch.ldd = p.n;
  stream_.synchronize();
  return o;
}

CheckResult Bench::compare(const BenchCase& c, const Operands& o) {
  const jit::Problem& p = c.problem;
  const auto sums = runtime::DeviceBuffer::of(device_, std::vector<double>(4, 0.0));
  const device::ReferenceParams params = reference_params(
      p, o.launch, p.accumulate ? o.c.data<float>() : nullptr, sums.data<double>());
  // The reference takes its sizes at run time: one kernel for all, found under one spec.
  jit::Problem types = p;
  types.n = types.k = jit::kScaleBlock;
  const runtime::LoadedKernel& kernel =
      engine_.kernel_for({jit::ReferenceSpec{types}, engine_.arch()});
  {
    const runtime::ContextScope scope(device_.driver(), device_.context());
    constexpr std::int64_t kSide = 16;
    const std::int64_t rows = std::clamp<std::int64_t>(jit::ceil_div(c.m, kSide), 1, 65535);
    kernel.launch_grid(static_cast<std::uint32_t>(jit::ceil_div(p.n, kSide)),
                       static_cast<std::uint32_t>(rows), &params, stream_.get());
  }
  stream_.synchronize();
  const std::vector<double> s = sums.to_host<double>();
  const double energy = s[0] + s[1];
  CheckResult result;
  // Random operands never give all zeros, so sums of zero mean that nothing was compared.
  result.difference = energy > 0 ? 1 - 2 * s[2] / energy : c.m == 0 ? 0 : 1;
  result.max_abs_error = s[3];
  // Written so that a NaN fails.
  result.passed =
      std::abs(result.difference) < kLargestDifference && std::isfinite(result.max_abs_error);
  return result;
}

void Bench::time(const kiln_plan* plan, const Operands& o, BenchResult& result) {
  const runtime::Event begin(device_), end(device_);
  std::vector<double> times_us;
  for (int i = 0; i < kWarmUps + options_.repeat; ++i) {
    // Writing the flush buffer also keeps the GPU busy while the launch is being queued, so that
    // the time of the launch call is not measured.
    flush_.fill(static_cast<std::uint8_t>(i), stream_.get());
    begin.record(stream_.get());
    check(kiln_launch(plan, &o.launch, stream_.get()));
    end.record(stream_.get());
    const double us = runtime::elapsed_us(begin, end);
    if (i >= kWarmUps) times_us.push_back(us);
  }
  std::sort(times_us.begin(), times_us.end());
  const std::size_t middle = times_us.size() / 2;
  result.median_us =
      times_us.size() % 2 == 1 ? times_us[middle] : (times_us[middle - 1] + times_us[middle]) / 2;
  result.best_us = times_us.front();
}

BenchResult Bench::run(const BenchCase& c) {
  const jit::Problem& p = c.problem;
  require_memory(c);
  // 1. The plan and its kernel for this M.
  const kiln_problem problem = to_c(p);
  const kiln_tile tile = to_c(c.tile.value_or(jit::Tile{}));
  PlanHandle plan;
  check(kiln_plan_create(handle_.get(), &problem, c.tile ? &tile : nullptr, plan.out()));
  check(kiln_plan_prepare(plan.get(), c.m, c.m));
  BenchResult result;
  check(kiln_plan_describe(plan.get(), c.m, &result.plan));

  // 2. One launch that is checked, before repeats accumulate on top of it.
  const Operands operands = make_operands(c);
  check(kiln_launch(plan.get(), &operands.launch, stream_.get()));
  stream_.synchronize();
  if (options_.check) result.check = compare(c, operands);

  // 3. The launches that are timed.
  time(plan.get(), operands, result);
  const double m = static_cast<double>(c.m), n = static_cast<double>(p.n),
               k = static_cast<double>(p.k);
  const double k_blocks = static_cast<double>(jit::scale_blocks(p.k));
  const double n_blocks = static_cast<double>(jit::scale_blocks(p.n));
  const double d_bytes =
      m * n * static_cast<double>(jit::element_bytes(p.out)) * (p.accumulate ? 2 : 1);
  result.flops = 2 * m * n * k;
  result.bytes = m * k + n * k + 4 * k_blocks * (m + n_blocks) + d_bytes;
  if (c.m == 0) result.bytes = 0;
  result.roofline_us =
      std::max(result.flops / peak_.tflops / 1e6, result.bytes / peak_.gb_per_s / 1e3);
  return result;
}

}  // namespace kiln::tools
