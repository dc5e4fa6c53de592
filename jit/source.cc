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

// The WGMMA of one tile width: PTX names every accumulator register, so the text depends on n.
// wgmma<0> overwrites `sum`, wgmma<1> adds to it.
std::string wgmma_function(std::int32_t n, Fp8Type a, Fp8Type b) {
  const std::int32_t registers = n / 2;
  std::string list, operands;
  for (std::int32_t i = 0; i < registers; ++i) {
    list += fmt::format("{}%{}", i ? ", " : "", i);
    operands += fmt::format("{}\"+f\"(sum[{}])", i ? ", " : "", i);
  }
  return fmt::format(
      "// 64 x {0} x 32, {1} x {2}; operands by shared-memory descriptors.\n"
      "template <int kAdd>\n"
      "KILN_DEVICE void wgmma(float (&sum)[{3}], u64 a, u64 b) {{\n"
      "  asm volatile(\n"
      "      \"{{\\n\"\n"
      "      \".reg .pred p;\\n\"\n"
      "      \"setp.ne.b32 p, %{4}, 0;\\n\"\n"
      "      \"wgmma.mma_async.sync.aligned.m64n{0}k32.f32.{1}.{2} {{{5}}}, %{6}, %{7}, p, 1, "
      "1;\\n\"\n"
      "      \"}}\\n\"\n"
      "      : {8}\n"
      "      : \"l\"(a), \"l\"(b), \"n\"(kAdd));\n"
      "}}\n",
      n, name(a), name(b), registers, registers + 2, list, registers, registers + 1, operands);
}

// Assembles the program and proves that each constant is used: an unused one would split the cache
// without changing the code. (A missing one does not compile.)
Source assemble(Arch arch, std::string entry, Constants constants, std::string_view generated,
                std::string_view file, std::string_view body, std::string_view params_type,
                const LaunchShape& launch) {
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
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n{}(const __grid_constant__ {} "
      "params) {{\n  {}(params);\n}}\n",
      launch.threads, entry, params_type, body);
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
  return fmt::format("kiln_{}_{}_n{}_k{}_{}_{}_{}{}_sfa_{}_{}x{}_wg{}x{}_s{}_c{}x{}_r{}",
                     name(p.layout), name(p.scaling), p.n, p.k, name(p.a), name(p.b), name(p.out),
                     p.accumulate ? "_add" : "", name(p.sfa_major), t.block_m, t.block_n,
                     t.warpgroups_m, t.warpgroups_n, t.stages, t.cluster_m, t.cluster_n,
                     t.raster_group);
}

Source render_kernel(const GemmSpec& spec, Arch arch) {
  const Problem& p = spec.problem;
  const Tile& t = spec.tile;
  validate(p);
  validate(t, p);
  Constants c;
  add(c, "kN", p.n);
  add(c, "kK", p.k);
  add(c, "kOutBf16", p.out == OutputType::kBf16);
  add(c, "kAccumulate", p.accumulate);
  add(c, "kSfaRowMajor", p.sfa_major == ScaleMajor::kRow);
  add(c, "kBlockM", std::int64_t{t.block_m});
  add(c, "kBlockN", std::int64_t{t.block_n});
  add(c, "kWarpgroupsM", std::int64_t{t.warpgroups_m});
  add(c, "kWarpgroupsN", std::int64_t{t.warpgroups_n});
  add(c, "kStages", std::int64_t{t.stages});
  add(c, "kClusterM", std::int64_t{t.cluster_m});
  add(c, "kClusterN", std::int64_t{t.cluster_n});
  add(c, "kRasterGroup", std::int64_t{t.raster_group});
  const LaunchShape launch{threads(t), t.cluster_m * t.cluster_n, smem_bytes(t, p),
                           sizeof(device::GemmParams)};
  return assemble(arch, entry_name(spec), std::move(c),
                  wgmma_function(t.block_n / t.warpgroups_n, p.a, p.b), "gemm_dense.cuh",
                  "gemm_dense", "GemmParams", launch);
}

Source render_kernel(const QuantizeSpec& spec, Arch arch) {
  validate(spec);
  const bool per_row = spec.granularity == ScaleGranularity::k1x128;
  Constants c;
  add(c, "kInBf16", spec.in == QuantizeInput::kBf16);
  add(c, "kOutE4m3", spec.out == Fp8Type::kE4m3);
  add(c, "kPowerOfTwo", spec.power_of_two);
  add(c, "kScaleRowMajor", spec.scale_major == ScaleMajor::kRow);
  const std::string entry =
      fmt::format("kiln_quantize_{}_{}_{}_{}{}", spec.in == QuantizeInput::kBf16 ? "bf16" : "f32",
                  name(spec.out), per_row ? "1x128" : "128x128", name(spec.scale_major),
                  spec.power_of_two ? "_pow2" : "");
  return assemble(arch, entry, std::move(c), "", "quantize.cuh",
                  per_row ? "quantize_rows" : "quantize_blocks", "QuantizeParams",
                  {256, 1, 0, sizeof(device::QuantizeParams)});
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
  const std::string entry = fmt::format("kiln_check_reference_{}_{}_{}_sfa_{}", name(p.a),
                                        name(p.b), name(p.out), name(p.sfa_major));
  return assemble(arch, entry, std::move(c), "", "check_reference.cuh", "check_reference",
                  "ReferenceParams", {256, 1, 0, sizeof(device::ReferenceParams)});
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
  if (spec.in != QuantizeInput::kBf16 && spec.in != QuantizeInput::kF32)
    throw Error(Status::kInvalidArgument,
                fmt::format("in_type must be bf16 or f32, got {}", static_cast<int>(spec.in)));
  if (spec.granularity != ScaleGranularity::k1x128 &&
      spec.granularity != ScaleGranularity::k128x128)
    throw Error(Status::kInvalidArgument,
                fmt::format("granularity must be 0 (1x128) or 1 (128x128), got {}",
                            static_cast<int>(spec.granularity)));
  if (name(spec.out).empty())
    throw Error(Status::kInvalidArgument,
                fmt::format("out_type must be e4m3 or e5m2, got {}", static_cast<int>(spec.out)));
  if (name(spec.scale_major).empty())
    throw Error(Status::kInvalidArgument,
                fmt::format("scale_major must be 0 (row) or 1 (m), got {}",
                            static_cast<int>(spec.scale_major)));
  if (spec.granularity == ScaleGranularity::k128x128 && spec.scale_major == ScaleMajor::kM)
    throw Error(Status::kInvalidArgument,
                "scale_major must be row for 128x128 scales (SFB is row-major), got m: use row");
}

std::string describe(const KernelSpec& spec) {
  struct Visitor {
    std::string operator()(const GemmSpec& s) const {
      return describe(s.problem) + " tile " + describe(s.tile);
    }
    std::string operator()(const QuantizeSpec& s) const {
      return fmt::format("quantize {} -> {} {} scales={}{}",
                         s.in == QuantizeInput::kBf16 ? "bf16" : "f32", name(s.out),
                         s.granularity == ScaleGranularity::k1x128 ? "1x128" : "128x128",
                         name(s.scale_major), s.power_of_two ? " pow2" : "");
    }
    std::string operator()(const FillSpec&) const { return "check: fill"; }
    std::string operator()(const ReferenceSpec& s) const {
      return fmt::format("check: reference {} x {} -> {} sfa={}", name(s.problem.a),
                         name(s.problem.b), name(s.problem.out), name(s.problem.sfa_major));
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
