#include "jit/source.h"

#include <fmt/format.h>

#include "jit/error.h"
#include "templates/params.cuh"

namespace kiln::jit {
namespace {

using Constants = std::vector<std::pair<std::string, std::string>>;

void add(Constants& constants, std::string_view name, std::int64_t value) {
  constants.emplace_back(fmt::format("constexpr u32 {}", name), fmt::format("{}", value));
}
void add(Constants& constants, std::string_view name, bool value) {
  constants.emplace_back(fmt::format("constexpr bool {}", name), value ? "true" : "false");
}

// A WGMMA of one tile width: PTX names every accumulator register, so the text depends on n.
// `kind`: k and the types. `adds`: the scale-d operand's value.
std::string wgmma_text(std::int32_t n, std::string_view kind, std::string_view adds,
                       bool a_in_registers = false) {
  const std::int32_t registers = n / 2, b = registers + (a_in_registers ? 4 : 1);
  const std::string a = a_in_registers ? fmt::format("{{%{}, %{}, %{}, %{}}}", registers,
                                                     registers + 1, registers + 2, registers + 3)
                                       : fmt::format("%{}", registers);
  std::string list, operands;
  for (std::int32_t i = 0; i < registers; ++i) {
    list += fmt::format("{}%{}", i ? ", " : "", i);
    operands += fmt::format("{}\"+f\"(sum[{}])", i ? ", " : "", i);
  }
  return fmt::format(
      "(float (&sum)[{0}], {8}, u64 b) {{\n"
      "  asm volatile(\n"
      "      \"{{\\n\"\n"
      "      \".reg .pred p;\\n\"\n"
      "      \"setp.ne.b32 p, %{1}, 0;\\n\"\n"
      "      \"wgmma.mma_async.sync.aligned.m64n{2}{3} {{{4}}}, {9}, %{5}, p, 1, 1;\\n\"\n"
      "      \"}}\\n\"\n"
      "      : {6}\n"
      "      : {10}, \"l\"(b), \"n\"({7}));\n"
      "}}\n",
      registers, b + 1, n, kind, list, b, operands, adds,
      a_in_registers ? "const u32 (&a)[4]" : "u64 a", a,
      a_in_registers ? "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3])" : "\"l\"(a)");
}

// Operands by shared-memory descriptors, or A in registers. wgmma<0> overwrites `sum`, wgmma<1>
// adds to it; wgmma_of_terms overwrites.
std::string wgmma_functions(std::int32_t n, Fp8Type a, Fp8Type b) {
  const std::string kind = fmt::format("k32.f32.{}.{}", name(a), name(b));
  return fmt::format(
      "// 64 x {0} x 32, {1} x {2}; operands by shared-memory descriptors.\n"
      "template <int kAdd>\n"
      "KILN_DEVICE void wgmma{3}\n"
      "// Likewise, A in registers: 16 rows of a warp.\n"
      "template <int kAdd>\n"
      "KILN_DEVICE void wgmma{4}\n"
      "// 64 x {0} x 8, TF32.\n"
      "KILN_DEVICE void wgmma_of_terms{5}",
      n, name(a), name(b), wgmma_text(n, kind, "kAdd"), wgmma_text(n, kind, "kAdd", true),
      wgmma_text(n, "k8.f32.tf32.tf32", "0"));
}

// Assembles the program and proves that each constant is used: an unused one would split the cache
// without changing the code. (A missing one does not compile.)
Source assemble(Arch arch, std::string entry, Constants constants, std::string_view generated,
                std::string_view file, std::string_view body, std::string_view params_type,
                const LaunchShape& launch, std::int32_t min_ctas_per_sm = 1) {
  std::string templates;
  for (const TemplateFile& f : template_files())
    if (f.name != "params.cuh") templates += f.text;
  Source source;
  source.text = "#include \"base.cuh\"\n\n";
  for (const auto& [declaration, value] : constants) {
    const std::string name = declaration.substr(declaration.rfind(' ') + 1);
    if (templates.find(name) == std::string::npos && generated.find(name) == std::string_view::npos)
      throw Error(Status::kInternal,
                  fmt::format("{}: constant {} is used by no template", entry, name));
    source.text += fmt::format("{} = {};\n", declaration, value);
  }
  source.text +=
      fmt::format("\n{}{}#include \"{}\"\n\n", generated, generated.empty() ? "" : "\n", file);
  source.text += fmt::format(
      "extern \"C\" __global__ void __launch_bounds__({}, {})\n{}(const __grid_constant__ {} "
      "params) {{\n  {}(params);\n}}\n",
      launch.threads, min_ctas_per_sm, entry, params_type, body);
  source.program_name = entry + ".cu";
  source.entry = std::move(entry);
  source.constants = std::move(constants);
  source.launch = launch;
  source.arch = arch;
  return source;
}

std::string entry_name(const GemmSpec& spec) {
  const Problem& p = spec.problem;
  const Tile& t = spec.tile;
  std::string name_of_problem = fmt::format("kiln_{}_{}_n{}", name(p.layout), name(p.scaling), p.n);
  if (p.scaling == Scaling::k1d2d) name_of_problem += fmt::format("_k{}", p.k);
  if (is_grouped(p)) name_of_problem += fmt::format("_{}", name(p.group_form));
  if (has_row_groups(p)) name_of_problem += fmt::format("_g{}", group_capacity(p));
  return fmt::format("{}_{}_{}_{}{}_sfa_{}_{}x{}_wg{}x{}x{}_s{}x{}_c{}x{}x{}_r{}", name_of_problem,
                     name(p.a), name(p.b), name(p.out),
                     reduces(p)     ? "_reduce"
                     : p.accumulate ? "_add"
                                    : "",
                     name(p.sfa_major), t.block_m, t.block_n, t.warpgroups_m, t.warpgroups_n,
                     t.warpgroups_k, t.stages, t.stage_blocks, t.cluster_m, t.cluster_n,
                     t.cluster_k, t.raster_group);
}

Source render_kernel(const GemmSpec& spec, Arch arch) {
  const Problem& p = spec.problem;
  const Tile& t = spec.tile;
  validate(p);
  validate(t, p);
  const bool packed = p.group_form == GroupForm::kPacked;
  Constants c;
  add(c, "kLayout", static_cast<std::int64_t>(p.layout));
  add(c, "kLabels", p.group_form == GroupForm::kLabels);
  add(c, "kPacked", packed);
  add(c, "kGroupCapacity", std::int64_t{group_capacity(p)});
  add(c, "kColumnScales", p.scaling == Scaling::k1d1d);
  add(c, "kN", p.n);
  add(c, "kK", p.k);
  add(c, "kOutBf16", p.out == OutputType::kBf16);
  add(c, "kAccumulate", p.accumulate);
  add(c, "kReduce", reduces(p));
  add(c, "kSfaRowMajor", p.sfa_major == ScaleMajor::kRow);
  add(c, "kBlockM", std::int64_t{t.block_m});
  add(c, "kBlockN", std::int64_t{t.block_n});
  add(c, "kWarpgroupsM", std::int64_t{t.warpgroups_m});
  add(c, "kWarpgroupsN", std::int64_t{t.warpgroups_n});
  add(c, "kWarpgroupsK", std::int64_t{t.warpgroups_k});
  add(c, "kStages", std::int64_t{t.stages});
  add(c, "kStageBlocks", std::int64_t{t.stage_blocks});
  add(c, "kClusterM", std::int64_t{t.cluster_m});
  add(c, "kClusterN", std::int64_t{t.cluster_n});
  add(c, "kClusterK", std::int64_t{t.cluster_k});
  add(c, "kRasterGroup", std::int64_t{t.raster_group});
  const LaunchShape launch{threads(t), cluster_size(t), smem_bytes(t, p),
                           static_cast<std::int32_t>(packed ? sizeof(device::PackedGemmParams)
                                                            : sizeof(device::GemmParams))};
  const std::int32_t wgmma_n = warpgroup_n(t) / passes(t, p);
  return assemble(arch, entry_name(spec), std::move(c), wgmma_functions(wgmma_n, p.a, p.b),
                  "gemm.cuh", "gemm", packed ? "PackedGemmParams" : "GemmParams", launch);
}

Source render_kernel(const QuantizeSpec& spec, Arch arch) {
  validate(spec);
  const bool per_row = spec.granularity == ScaleGranularity::k1x128;
  Constants c;
  if (!spec.two_way) add(c, "kInBf16", spec.in == QuantizeInput::kBf16);  // two-way: BF16 alone
  add(c, "kOutE4m3", spec.out == Fp8Type::kE4m3);
  add(c, "kPowerOfTwo", spec.power_of_two);
  add(c, "kScaleRowMajor", spec.scale_major == ScaleMajor::kRow);
  const std::string entry =
      fmt::format("kiln_quantize_{}_{}_{}_{}{}{}", spec.in == QuantizeInput::kBf16 ? "bf16" : "f32",
                  name(spec.out), per_row ? "1x128" : "128x128", name(spec.scale_major),
                  spec.power_of_two ? "_pow2" : "", spec.two_way ? "_two_way" : "");
  const LaunchShape launch{256, 1, 0, sizeof(device::QuantizeParams)};
  if (!spec.two_way)
    return assemble(arch, entry, std::move(c), "", "quantize.cuh",
                    per_row ? "quantize_rows" : "quantize_blocks", "QuantizeParams", launch);
  // Four CTAs per SM leave 64 registers per thread, into which the kernel just fits: while some
  // wait for memory the others compute.
  return assemble(arch, entry, std::move(c), "", "quantize_two_way.cuh",
                  per_row ? "quantize_two_way_rows" : "quantize_two_way_blocks", "QuantizeParams",
                  launch, 4);
}

Source render_kernel(const FillSpec&, Arch arch) {
  return assemble(arch, "kiln_check_fill", {}, "", "check_fill.cuh", "fill_normal", "FillParams",
                  {256, 1, 0, sizeof(device::FillParams)});
}

Source render_kernel(const ReferenceSpec& spec, Arch arch) {
  const Problem& p = spec.problem;
  Constants c;
  add(c, "kAIsE4m3", p.a == Fp8Type::kE4m3);
  add(c, "kBIsE4m3", p.b == Fp8Type::kE4m3);
  add(c, "kOutBf16", p.out == OutputType::kBf16);
  add(c, "kSfaRowMajor", p.sfa_major == ScaleMajor::kRow);
  add(c, "kSfbPerColumn", p.scaling == Scaling::k1d1d);
  const std::string entry = fmt::format("kiln_check_reference_{}_{}_{}_{}_sfa_{}", name(p.scaling),
                                        name(p.a), name(p.b), name(p.out), name(p.sfa_major));
  return assemble(arch, entry, std::move(c), "", "check_reference.cuh", "check_reference",
                  "ReferenceParams", {256, 1, 0, sizeof(device::ReferenceParams)});
}

// The rule that it breaks, with value and remedy; "" when it is legal.
std::string violation_of(const QuantizeSpec& spec) {
  if (spec.in != QuantizeInput::kBf16 && spec.in != QuantizeInput::kF32)
    return fmt::format("in_type must be bf16 or f32, got {}", static_cast<int>(spec.in));
  if (spec.granularity != ScaleGranularity::k1x128 &&
      spec.granularity != ScaleGranularity::k128x128)
    return fmt::format("granularity must be 0 (1x128) or 1 (128x128), got {}",
                       static_cast<int>(spec.granularity));
  if (name(spec.out).empty())
    return fmt::format("out_type must be e4m3 or e5m2, got {}", static_cast<int>(spec.out));
  if (name(spec.scale_major).empty())
    return fmt::format("scale_major must be 0 (row) or 1 (m), got {}",
                       static_cast<int>(spec.scale_major));
  if (spec.granularity == ScaleGranularity::k128x128 && spec.scale_major == ScaleMajor::kM)
    return "scale_major must be row for 128x128 scales (SFB is row-major), got m: use row";
  if (spec.two_way && spec.in != QuantizeInput::kBf16)
    return "two_way must be 0 unless in_type is bf16, got 1 with f32: convert the matrix to "
           "bf16 first, or cast it and its transpose in two calls";
  return "";
}

}  // namespace

std::string name(Arch arch) { return fmt::format("sm_{}a", arch.sm); }

Arch parse_arch(std::string_view text, std::string_view field) {
  if (text == "sm_90a") return Arch{90};
  throw Error(
      Status::kUnsupported,
      fmt::format("{} must be sm_90a (NVIDIA Hopper: H100, H200, H800, H20, GH200), got \"{}\"",
                  field, text));
}

void validate(const QuantizeSpec& spec) {
  const std::string violation = violation_of(spec);
  if (!violation.empty()) throw Error(Status::kInvalidArgument, violation);
}

std::vector<QuantizeSpec> all_casts() {
  std::vector<QuantizeSpec> casts;
  // Each of the six fields has two values: a bit of the number.
  for (unsigned bits = 0; bits < 1U << 6; ++bits) {
    const auto bit = [bits](unsigned position) { return (bits >> position & 1U) != 0; };
    const QuantizeSpec spec{bit(5) ? QuantizeInput::kF32 : QuantizeInput::kBf16,
                            bit(4) ? Fp8Type::kE5m2 : Fp8Type::kE4m3,
                            bit(3) ? ScaleGranularity::k128x128 : ScaleGranularity::k1x128,
                            bit(2) ? ScaleMajor::kM : ScaleMajor::kRow,
                            bit(1),
                            bit(0)};
    if (violation_of(spec).empty()) casts.push_back(spec);
  }
  return casts;
}

ReferenceSpec reference_of(const Problem& problem) {
  Problem types;
  types.n = types.k = kScaleBlock;
  types.scaling = problem.scaling;
  types.a = problem.a;
  types.b = problem.b;
  types.out = problem.out;
  types.sfa_major = problem.sfa_major;
  return {types};
}

std::string describe(const KernelSpec& spec) {
  struct Visitor {
    std::string operator()(const GemmSpec& s) const {
      return describe(s.problem) + " tile " + describe(s.tile);
    }
    std::string operator()(const QuantizeSpec& s) const {
      return fmt::format(
          "quantize {} -> {} {} scales={}{}{}", s.in == QuantizeInput::kBf16 ? "bf16" : "f32",
          name(s.out), s.granularity == ScaleGranularity::k1x128 ? "1x128" : "128x128",
          name(s.scale_major), s.power_of_two ? " pow2" : "", s.two_way ? " two-way" : "");
    }
    std::string operator()(const FillSpec&) const { return "check: fill"; }
    std::string operator()(const ReferenceSpec& s) const {
      return fmt::format("check: reference {} {} x {} -> {} sfa={}", name(s.problem.scaling),
                         name(s.problem.a), name(s.problem.b), name(s.problem.out),
                         name(s.problem.sfa_major));
    }
  };
  return std::visit(Visitor{}, spec.kernel);
}

Source render(const KernelSpec& spec) {
  if (spec.arch.sm != 90)
    throw Error(Status::kUnsupported, fmt::format("arch must be sm_90a, got {}", name(spec.arch)));
  return std::visit([&](const auto& kernel) { return render_kernel(kernel, spec.arch); },
                    spec.kernel);
}

}  // namespace kiln::jit
