#include "tools/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "templates/params.cuh"

namespace kiln::tools {
namespace {

// Beyond any L2, so that writing it leaves nothing of the operands there.
constexpr std::size_t kFlushBytes = std::size_t{512} << 20;
constexpr double kLargestDifference = 0.001;
constexpr int kWarmUps = 2;
// What is not filled otherwise: a NaN in all types, so that reading it shows in the check.
constexpr std::uint8_t kUntouched = 0xff;

Peak peak_of(const runtime::DeviceInfo& info, int num_sms) {
  constexpr double kFlopsPerClock = 8192;  // of one Hopper SM: dense FP8, a multiply-add is two
  Peak peak;
  peak.tflops = num_sms * kFlopsPerClock * info.clock_khz * 1e3 / 1e12;
  peak.gb_per_s =
      2.0 * info.memory_clock_khz * 1e3 * info.memory_bus_bits / 8 / 1e9;  // double data rate
  return peak;
}

// The sizes fit into memory: see require_memory().
std::size_t bytes(double elements, std::int64_t element_bytes) {
  // At least one element: an empty allocation has no address.
  return static_cast<std::size_t>(std::max(elements, 1.0)) *
         static_cast<std::size_t>(element_bytes);
}

void create_quantizer(kiln_engine* engine, int type, int granularity, int scale_major,
                      QuantizerHandle& quantizer) {
  kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
  problem.in_type = KILN_TYPE_BF16;
  problem.out_type = type;
  problem.granularity = granularity;
  problem.scale_major = scale_major;
  check(kiln_quantizer_create(engine, &problem, quantizer.out()));
  check(kiln_quantizer_prepare(quantizer.get()));
}

device::ReferenceParams reference_params(const Workload& w, const Product& part,
                                         const kiln_operands& launch, const std::uint8_t* c,
                                         double* sums) {
  const std::int64_t d_bytes = jit::element_bytes(w.problem.out);
  device::ReferenceParams params{};
  params.a = static_cast<const std::uint8_t*>(launch.a) + part.a;
  params.b = static_cast<const std::uint8_t*>(launch.b) + part.b;
  params.sfa = launch.sfa + part.sfa;
  params.sfb = launch.sfb + part.sfb;
  params.d = static_cast<const std::uint8_t*>(launch.d) + part.d * d_bytes;
  params.c = c != nullptr ? c + part.d * d_bytes : nullptr;
  params.sums = sums;
  params.lda = part.lda;
  params.ldb = part.ldb;
  params.ld_sfa = w.ld_sfa;
  params.ld_sfb = w.ld_sfb;
  params.ldd = w.problem.n;
  params.m = part.m;
  params.n = w.problem.n;
  params.k = part.k;
  return params;
}

}  // namespace

struct PreparedCase::Operands {
  runtime::DeviceBuffer a, b, sfa, sfb, d;
  runtime::DeviceBuffer c;        // D before the launch; accumulating only
  runtime::DeviceBuffer checked;  // a D that passed the check; empty until there is one
  runtime::DeviceBuffer grouping;
  std::vector<std::int32_t> host_grouping;
  kiln_operands launch = KILN_OPERANDS_INIT;
};

// A matrix to be made: random, and cast to FP8.
struct Bench::Part {
  std::int64_t rows, cols;
  std::uint8_t* out;
  std::int64_t ld_out;
  float* scales;
  std::int64_t ld_scales;
  std::uint64_t seed;
};

Bench::Bench(const EngineHandle& engine, const BenchOptions& options)
    : handle_(engine),
      engine_(engine.engine()),
      device_(engine_.device()),
      options_(options),
      peak_(peak_of(device_.info(), engine_.num_sms())),
      stream_(device_),
      flush_(device_, kFlushBytes) {}

void Bench::fill(void* out, std::uint64_t count, std::uint64_t seed) {
  if (count == 0) return;
  const runtime::LoadedKernel& kernel = engine_.kernel_for({jit::FillSpec{}, engine_.arch()});
  const runtime::ContextScope scope(device_.driver(), device_.context());
  const device::FillParams params{out, count, seed};
  kernel.launch(static_cast<std::uint32_t>(device_.info().num_sms) * 4, &params, stream_.get());
}

void Bench::cast(const kiln_quantizer* quantizer, const runtime::DeviceBuffer& wide,
                 const Part& part) {
  if (part.rows == 0 || part.cols == 0) return;
  fill(wide.data(), static_cast<std::uint64_t>(part.rows * part.cols), part.seed);
  kiln_quantize_operands operands = KILN_QUANTIZE_OPERANDS_INIT;
  operands.rows = part.rows;
  operands.cols = part.cols;
  operands.in = wide.data();
  operands.ld_in = part.cols;
  operands.out = part.out;
  operands.ld_out = part.ld_out;
  operands.scales = part.scales;
  operands.ld_scales = part.ld_scales;
  check(kiln_quantize(quantizer, &operands, stream_.get()));
}

void Bench::require_small(const Workload& w) const {
  if (options_.most_flops == 0 || tools::flops(w) <= options_.most_flops) return;
  throw Error(Status::kInvalidArgument,
              fmt::format("a problem for the simulator must have at most {:.3g} multiply-adds, got "
                          "{:.3g}: use a smaller M, N or K{}, or a GPU",
                          options_.most_flops / 2, tools::flops(w) / 2,
                          jit::is_grouped(w.problem) ? ", or fewer groups" : ""));
}

// Before anything is allocated.
void Bench::require_memory(const Workload& w) const {
  const OperandSizes s = operand_sizes(w);
  const double d_bytes = s.d * static_cast<double>(jit::element_bytes(w.problem.out));
  const double needed = s.a + s.b + 4 * (s.sfa + s.sfb + s.grouping) + 2 * s.widest_part +
                        d_bytes * (1 + w.problem.accumulate + options_.keep_result);
  const double there = static_cast<double>(device_.info().memory_bytes);
  if (needed <= there) return;
  throw Error(Status::kOutOfMemory,
              fmt::format("the operands take {:.1f} GiB, the GPU has {:.1f} GiB: use a smaller M, "
                          "N or K{}",
                          needed / (1 << 30), there / (1 << 30),
                          jit::is_grouped(w.problem) ? ", or fewer groups" : ""));
}

Bench::Operands Bench::make_operands(const Workload& w) {
  const jit::Problem& p = w.problem;
  const OperandSizes sizes = operand_sizes(w);
  Operands o;
  o.a = runtime::DeviceBuffer(device_, bytes(sizes.a, 1));
  o.b = runtime::DeviceBuffer(device_, bytes(sizes.b, 1));
  o.sfa = runtime::DeviceBuffer(device_, bytes(sizes.sfa, sizeof(float)));
  o.sfb = runtime::DeviceBuffer(device_, bytes(sizes.sfb, sizeof(float)));
  o.d = runtime::DeviceBuffer(device_, bytes(sizes.d, jit::element_bytes(p.out)));
  if (p.accumulate) o.c = runtime::DeviceBuffer(device_, o.d.size());
  fill_operands(w, o);

  o.launch.m = w.m;
  if (p.scaling == jit::Scaling::k1d1d) o.launch.k = w.k;
  o.launch.a = o.a.data();
  o.launch.b = o.b.data();
  o.launch.sfa = o.sfa.data<float>();
  o.launch.ld_sfa = w.ld_sfa;
  o.launch.sfb = o.sfb.data<float>();
  o.launch.ld_sfb = w.ld_sfb;
  o.launch.d = o.d.data();
  o.launch.ldd = p.n;
  // Slices follow each other without gaps, which is what group strides of 0 say.
  if (p.layout == jit::Layout::kGroupedMasked) o.launch.expected_m = w.plan_m;
  o.host_grouping = grouping(w);
  if (p.group_form == jit::GroupForm::kPacked) {
    o.launch.host_group_k = o.host_grouping.data();
    return o;
  }
  o.launch.lda = o.launch.ldb = w.k;
  if (!o.host_grouping.empty()) {
    o.grouping = runtime::DeviceBuffer::of(device_, o.host_grouping);
    o.launch.grouping = o.grouping.data<std::int32_t>();
  }
  return o;
}

void Bench::fill_operands(const Workload& w, const Operands& o) {
  const jit::Problem& p = w.problem;
  const kiln_problem problem = to_c(p);
  const bool per_column = p.scaling == jit::Scaling::k1d1d;
  QuantizerHandle cast_a, cast_b;
  create_quantizer(handle_.get(), problem.a_type, KILN_SCALE_1X128, problem.sfa_major, cast_a);
  create_quantizer(handle_.get(), problem.b_type,
                   per_column ? KILN_SCALE_1X128 : KILN_SCALE_128X128,
                   per_column ? KILN_SCALE_M_MAJOR : KILN_SCALE_ROW_MAJOR, cast_b);
  for (const runtime::DeviceBuffer* buffer : {&o.a, &o.b, &o.sfa, &o.sfb}) {
    if (buffer->size() > 0) buffer->fill(kUntouched, stream_.get());
  }
  const runtime::DeviceBuffer wide(device_, bytes(operand_sizes(w).widest_part, 2));
  std::uint64_t seed = options_.seed;
  for (const Product& part : products(w)) {
    cast(cast_a.get(), wide,
         {part.m, part.k, o.a.data<std::uint8_t>() + part.a, part.lda,
          o.sfa.data<float>() + part.sfa, w.ld_sfa, seed++});
    cast(cast_b.get(), wide,
         {p.n, part.k, o.b.data<std::uint8_t>() + part.b, part.ldb, o.sfb.data<float>() + part.sfb,
          w.ld_sfb, seed++});
    if (p.accumulate) ++seed;  // of C, see fill_d()
  }
  if (p.accumulate) fill_d(w, o.c);
  fill_d(w, o.d);
  stream_.synchronize();  // before `wide` goes
}

// D as a launch finds it: accumulating C, else nothing that could pass for a result.
void Bench::fill_d(const Workload& w, const runtime::DeviceBuffer& d) {
  d.fill(kUntouched, stream_.get());
  if (!w.problem.accumulate) return;
  const std::int64_t d_bytes = jit::element_bytes(w.problem.out);
  std::uint64_t seed = options_.seed;
  for (const Product& part : products(w)) {
    // Two BF16 values make one FP32 value: the upper one, with random lower mantissa bits.
    const auto count = static_cast<std::uint64_t>(part.m * w.problem.n * d_bytes / 2);
    fill(d.data<std::uint8_t>() + part.d * d_bytes, count, seed + 2);
    seed += 3;  // A and B of the part have the other two
  }
}

CheckResult Bench::compare(const Workload& w, const Operands& o) {
  const auto sums = runtime::DeviceBuffer::of(device_, std::vector<double>(4, 0.0));
  const runtime::LoadedKernel& kernel =
      engine_.kernel_for({jit::reference_of(w.problem), engine_.arch()});
  const std::uint8_t* c = w.problem.accumulate ? o.c.data<const std::uint8_t>() : nullptr;
  // D that was checked stands for C + A x B: without K the plain kernel adds nothing to it.
  const bool has_checked = o.checked.size() > 0;
  if (has_checked) c = o.checked.data<const std::uint8_t>();
  bool has_values = false;
  for (const Product& part : products(w)) {
    if (part.m == 0) continue;
    has_values = has_values || part.k > 0;
    device::ReferenceParams params = reference_params(w, part, o.launch, c, sums.data<double>());
    if (has_checked) params.k = 0;
    const runtime::ContextScope scope(device_.driver(), device_.context());
    constexpr std::int64_t kSide = 16;
    // Each CTA adds to the sums once: few of them where that takes longer than reading D.
    const std::int64_t most_rows = has_checked ? 16 : 65535;
    const std::int64_t rows = std::min<std::int64_t>(jit::ceil_div(part.m, kSide), most_rows);
    kernel.launch_grid(static_cast<std::uint32_t>(jit::ceil_div(w.problem.n, kSide)),
                       static_cast<std::uint32_t>(rows), &params, stream_.get());
  }
  stream_.synchronize();
  const std::vector<double> s = sums.to_host<double>();
  const double energy = s[0] + s[1];
  CheckResult result;
  // Random operands never give all zeros, so sums of zero mean that nothing was compared.
  result.difference = energy > 0 ? 1 - 2 * s[2] / energy : has_values ? 1 : 0;
  result.max_abs_error = s[3];
  result.stray_rows = count_stray_rows(w, o);
  // Written so that a NaN fails.
  result.passed = std::abs(result.difference) < kLargestDifference &&
                  std::isfinite(result.max_abs_error) && result.stray_rows == 0;
  return result;
}

void Bench::keep(Operands& o) const {
  runtime::DeviceBuffer copy(device_, o.d.size());
  copy.copy_from(o.d, stream_.get());
  stream_.synchronize();
  o.checked = std::move(copy);
}

// Rows of no group must still hold what was there before the launch.
std::int64_t Bench::count_stray_rows(const Workload& w, const Operands& o) const {
  constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
  const std::int64_t row_bytes = w.problem.n * jit::element_bytes(w.problem.out);
  const std::int64_t chunk_rows = std::max<std::int64_t>(kChunkBytes / row_bytes, 1);
  const std::vector<std::byte> untouched(static_cast<std::size_t>(row_bytes),
                                         std::byte{kUntouched});
  std::int64_t stray = 0;
  std::vector<std::byte> host;
  for (const Range& gap : rows_of_no_group(w)) {
    for (std::int64_t row = gap.begin; row < gap.end; row += chunk_rows) {
      const std::int64_t rows = std::min(chunk_rows, gap.end - row);
      host.resize(static_cast<std::size_t>(rows * row_bytes));
      o.d.download(host, static_cast<std::size_t>(row * row_bytes));
      for (std::int64_t i = 0; i < rows; ++i) {
        stray += std::memcmp(host.data() + i * row_bytes, untouched.data(), untouched.size()) != 0;
      }
    }
  }
  return stray;
}

void Bench::time(const Launch& launch, BenchResult& result) {
  const runtime::Event begin(device_), end(device_);
  std::vector<double> times_us;
  for (int i = 0; i < kWarmUps + options_.repeat; ++i) {
    // Writing the flush buffer also keeps the GPU busy while the launch is being queued, so that
    // the time of the launch call is not measured.
    flush_.fill(static_cast<std::uint8_t>(i), stream_.get());
    begin.record(stream_.get());
    launch(stream_.get());
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

PreparedCase::PreparedCase(Bench& bench, const BenchCase& c)
    : bench_(bench), workload_(make_workload(c.problem, c.sizing)) {
  bench.require_small(workload_);
  bench.require_memory(workload_);
  operands_ = std::make_unique<Operands>(bench.make_operands(workload_));
  flops_ = tools::flops(workload_);
  bytes_ = moved_bytes(workload_);
  roofline_us_ = std::max(flops_ / bench.peak().tflops / 1e6, bytes_ / bench.peak().gb_per_s / 1e3);
}

PreparedCase::~PreparedCase() = default;

const kiln_operands& PreparedCase::operands() const { return operands_->launch; }

BenchPlan PreparedCase::plan(const std::optional<jit::Tile>& tile) const {
  const kiln_problem problem = to_c(workload_.problem);
  const kiln_tile given = to_c(tile.value_or(jit::Tile{}));
  const auto plan = std::make_shared<PlanHandle>();
  tools::check(
      kiln_plan_create(bench_.handle_.get(), &problem, tile ? &given : nullptr, plan->out()));
  tools::check(kiln_plan_prepare(plan->get(), workload_.plan_m, workload_.plan_m));
  BenchPlan result;
  tools::check(kiln_plan_describe(plan->get(), workload_.plan_m, &result.description));
  result.launch = [plan, operands = operands_.get()](CUstream stream) {
    tools::check(kiln_launch(plan->get(), &operands->launch, stream));
  };
  return result;
}

CheckResult PreparedCase::check(const Launch& launch) const {
  bench_.fill_d(workload_, operands_->d);
  launch(bench_.stream_.get());
  bench_.stream_.synchronize();
  const CheckResult result = bench_.compare(workload_, *operands_);
  if (result.passed && bench_.options_.keep_result && operands_->checked.size() == 0)
    bench_.keep(*operands_);
  return result;
}

std::unique_ptr<PreparedCase> Bench::prepare(const BenchCase& c) {
  return std::unique_ptr<PreparedCase>(new PreparedCase(*this, c));
}

BenchResult Bench::run(const BenchCase& c) {
  const std::unique_ptr<PreparedCase> prepared = prepare(c);
  const BenchPlan plan = prepared->plan(c.tile);
  BenchResult result;
  result.workload = prepared->workload();
  result.plan = plan.description;
  // Before repeats accumulate on top of it.
  for (int i = 0; options_.check && i < options_.checks; ++i) {
    if (options_.before_check) options_.before_check(i);
    const CheckResult check = prepared->check(plan.launch);
    // With keep_result only the first is compared with the plain kernel's D.
    if (!result.check || !check.passed) result.check = check;
    if (!check.passed) break;
  }
  if (options_.has_times) time(plan.launch, result);
  result.flops = prepared->flops();
  result.bytes = prepared->bytes();
  result.roofline_us = prepared->roofline_us();
  return result;
}

}  // namespace kiln::tools
