#include "tools/sim/host_compiler.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "tools/sim/embedded.h"

namespace kiln::sim {
namespace {

namespace fs = std::filesystem;

struct Output {
  std::string text;
  int status = -1;
};

Output run(const std::string& command) {
  Output output;
  std::FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  while (const std::size_t count = std::fread(buffer, 1, sizeof(buffer), pipe))
    output.text.append(buffer, count);
  output.status = pclose(pipe);
  return output;
}

std::string quoted(const std::string& text) {
  return "'" + std::regex_replace(text, std::regex("'"), "'\\''") + "'";
}

class TempDir {
 public:
  TempDir() {
    std::string pattern = (fs::temp_directory_path() / "kiln-sim-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      throw Error(Status::kCompileFailed,
                  fmt::format("no directory can be made at {}: set TMPDIR to one that is writable",
                              pattern));
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string operator/(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

 private:
  std::string path_;
};

void write_file(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string read_file(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return std::move(text).str();
}

// FNV-1a: tells texts apart, not friend from foe.
std::uint64_t hash(std::string_view text, std::uint64_t h = 0xcbf29ce484222325ull) {
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

// The first instruction of inline assembly, for a message; empty when there is none.
std::string assembly_in(const std::string& text) {
  static const std::regex kAsm(R"(\basm\b\s*(volatile)?\s*\(\s*"([^"]*)\")");
  std::smatch match;
  return std::regex_search(text, match, kAsm) ? match[2].str() + " ..." : "";
}

[[noreturn]] void refuse(const std::string& file, const std::string& instruction) {
  throw Error(
      Status::kUnsupported,
      fmt::format("{}: the simulator does not model inline assembly there, got \"{}\": move "
                  "the instruction into templates/ptx.cuh as a function of its name, and "
                  "spell that function in tools/sim/kernel_side/ptx.cuh",
                  file, instruction));
}

// The generated wgmma<> and wgmma_of_terms: their assembly becomes a call.
std::string replace_wgmma(const jit::Source& source) {
  static const std::regex kWgmma(
      R"(asm volatile\(\s*"\{\\n"\s*"\.reg \.pred p;\\n"\s*"setp\.ne\.b32 p, %\d+, 0;\\n"\s*)"
      R"("wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(?:32|8)\.f32\.(e4m3|e5m2|tf32)\.(e4m3|e5m2|tf32) )"
      R"(\{[%\d, ]*\}, (?:%\d+|\{[%\d, ]*\}), %\d+, p, 1, 1;\\n"\s*"\}\\n"[^;]*"n"\((\w+)\)\);)");
  return std::regex_replace(
      source.text, kWgmma,
      "kiln_sim::mma(sum, a, b, {$1, kiln_sim_$2, kiln_sim_$3, kBlockM < 64 ? kBlockM : 64}, "
      "$4 != 0, "
      "kiln_sim::Where::current());");
}

constexpr std::string_view kPrologue = R"(#include <builtins.h>
constexpr auto kiln_sim_e4m3 = kiln_sim::MmaType::kE4m3, kiln_sim_e5m2 = kiln_sim::MmaType::kE5m2,
               kiln_sim_tf32 = kiln_sim::MmaType::kTf32;
#line 1 "kernel.cu"
)";

constexpr std::string_view kGemmRegions = R"(
    {"A", "stage", kSmem.a, kSmem.a_stage_bytes, kStages},
    {"B", "stage", kSmem.b, kSmem.b_stage_bytes, kStages},
    {"staging of D", "slot", kSmem.d, kSlotBytes,
     kSlots * kAllStoreWarps},
    {"SFA", "stage", kSmem.sfa, kSmem.sfa_stage_bytes, kStages},
    {"SFB", "stage", kSmem.sfb, kSmem.sfb_stage_bytes, kStages},
    {"split SFA", "stage", kSmem.sfa_terms, kBlockM * kTermBytes, kScaleTerms ? kStages : 0},
    {"split SFB", "stage", kSmem.sfb_terms, kBlockN * kTermBytes, kScaleTerms ? kStages : 0},
    {"row-major SFA", "slot", kSmem.sfa_rows, kSmem.sfa_group_bytes, sfa_groups(kBlockM)},
    {"partial totals", "part", kSmem.partials, kSmem.partial_bytes, kWarpgroupsK - 1},
    {"gathered totals", "part", kSmem.gathered, kSmem.gathered_bytes,
     (kSmem.site - kSmem.gathered) / kSmem.gathered_bytes},
    {"site", "stage", kSmem.site, kSiteBytes, kStages},
    {"group table", "array", kSmem.groups, (kGroupCapacity + 1) * 4, kRowGroups ? 4u : 0u},
    {"barrier full", "stage", kSmem.full, 8, kStages},
    {"barrier empty", "stage", kSmem.empty, 8, kStages},
    {"barrier scales", "stage", kSmem.scales, 8, kScaleTerms ? kStages : 0},
    {"barrier c_full", "slot", kSmem.c_full, 8, kSlots * kAllStoreWarps},
    {"barrier gather_full", "warp", kSmem.gather_full, 8,
     kClusterK > 1 ? kAllStoreWarps : 0},
    {"barrier gather_empty", "warp", kSmem.gather_empty, 8,
     kClusterK > 1 ? kAllStoreWarps : 0},
)";

// As ptxas reports it: what the launch allots.
int launch_registers(const jit::Source& source) {
  return std::min(65536 / source.launch.threads / 8 * 8, 248);
}

std::string epilogue(const jit::Source& source) {
  const bool is_gemm = source.text.find("#include \"gemm.cuh\"") != std::string::npos;
  return fmt::format(R"(
template <class Params>
void kiln_sim_call(void (*kernel)(Params), const void* params) {{
  kernel(*static_cast<const Params*>(params));
}}
template <class Params>
constexpr int kiln_sim_bytes(void (*)(Params)) {{
  return sizeof(Params);
}}
extern "C" {{
KILN_SIM_API void kiln_sim_entry(const void* params) {{ kiln_sim_call(&{0}, params); }}
KILN_SIM_API extern const kiln_sim::Region kiln_sim_regions[] = {{{1}    {{nullptr, nullptr, 0, 0, 0}}}};
KILN_SIM_API extern const int kiln_sim_info[] = {{{2}, {3}, kiln_sim_bytes(&{0})}};
KILN_SIM_API extern const char kiln_sim_name[] = "{0}";
}}
thread_local __attribute__((aligned(1024))) u8 shared[1];
)",
                     source.entry, is_gemm ? kGemmRegions : "\n", source.launch.threads,
                     launch_registers(source));
}

}  // namespace

std::string host_program(const jit::Source& source) {
  const std::string text = replace_wgmma(source);
  if (const std::string left = assembly_in(text); !left.empty()) refuse(source.program_name, left);
  return std::string(kPrologue) + text + epilogue(source);
}

HostCompiler::HostCompiler(TemplateOverrides overrides) : overrides_(std::move(overrides)) {
  const char* const chosen = std::getenv("CXX");
  compiler_ = chosen != nullptr && *chosen != '\0' ? chosen : "c++";
  const Output output = run(compiler_ + " --version");
  if (output.status != 0)
    throw Error(
        Status::kNoCompiler,
        fmt::format("the simulator compiles kernels with the host's C++ compiler, and \"{}\" "
                    "cannot be run: install g++ 11 or newer, or set CXX",
                    compiler_));
  version_ = output.text.substr(0, output.text.find('\n'));
}

std::string HostCompiler::fingerprint() const {
  std::uint64_t h = hash("kiln-sim-1");
  for (const EmbeddedFile& file : kernel_side_files()) h = hash(file.text, hash(file.name, h));
  h = hash(kGemmRegions, hash(kPrologue, h));
  for (const auto& [name, text] : overrides_) h = hash(text, hash(name, h));
  return fmt::format("simulator {:016x} {}", h, version_);
}

std::vector<std::string> HostCompiler::options(jit::Arch) const {
  std::vector<std::string> options = {"-std=c++20",
                                      "-O1",
                                      "-g1",
                                      "-w",
                                      "-fPIC",
                                      "-shared",
                                      "-fno-math-errno",
                                      "-ffp-contract=fast",
                                      "-fno-extern-tls-init",  // __shared__ needs no initialisation
                                      "-fno-strict-aliasing",
                                      "-fnon-call-exceptions"};  // tools/sim/access.h
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    options.insert(options.end(), {"-mavx2", "-mfma"});  // a multiply-add rounds once, as on a GPU
#endif
  return options;
}

jit::CompiledKernel HostCompiler::compile(const jit::Source& source) {
  const auto begin = std::chrono::steady_clock::now();
  const TempDir dir;
  for (const jit::TemplateFile& file : jit::template_files()) {
    const auto found = overrides_.find(std::string(file.name));
    const std::string text(found != overrides_.end() ? found->second : file.text);
    if (file.name == "ptx.cuh") continue;
    if (const std::string left = assembly_in(text); !left.empty())
      refuse(std::string(file.name), left);
    write_file(dir / file.name, text);
  }
  for (const EmbeddedFile& file : kernel_side_files()) write_file(dir / file.name, file.text);
  write_file(dir / "kernel.cc", host_program(source));
  std::string command = compiler_;
  for (const std::string& option : options(source.arch)) command += " " + option;
  command += fmt::format(" -I {} -o {} {}", quoted(dir / "."), quoted(dir / "kernel.so"),
                         quoted(dir / "kernel.cc"));
  const Output output = run(command);
  if (output.status != 0)
    throw Error(Status::kCompileFailed,
                fmt::format("{} does not compile for the simulator ({}); an instruction that is "
                            "missing here must be added to tools/sim/kernel_side/ptx.cuh:\n{}",
                            source.program_name, compiler_, output.text.substr(0, 4000)));
  const std::string image = read_file(dir / "kernel.so");
  jit::CompiledKernel compiled;
  const auto* const bytes = reinterpret_cast<const std::byte*>(image.data());
  compiled.cubin.assign(bytes, bytes + image.size());
  compiled.resources.registers = launch_registers(source);
  compiled.compile_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return compiled;
}

// ---- the library ----

std::string simulator_library() {
  constexpr const char* kName = "libkiln_sim.so";
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  std::string tried;
  const fs::path folder_of_program = program.parent_path(), above = folder_of_program.parent_path();
  for (const fs::path& folder : {folder_of_program, folder_of_program / "sim",
                                 above / KILN_SIM_LIBDIR, above.parent_path() / "tools/sim"}) {
    const fs::path candidate = folder / kName;
    if (fs::exists(candidate, ignored)) return candidate.string();
    tried += (tried.empty() ? "" : ", ") + candidate.string();
  }
  throw Error(Status::kNoDevice,
              fmt::format("the simulator was not built: none of {} exists; install "
                          "libboost-context-dev and build again",
                          tried));
}

Control& control(const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto function = handle != nullptr
                            ? reinterpret_cast<ControlFunction*>(dlsym(handle, kControlSymbol))
                            : nullptr;
  if (function == nullptr)
    throw Error(Status::kNoDevice,
                fmt::format("{} is not the simulator's library: {}", library,
                            handle == nullptr ? dlerror() : "no control symbol"));
  return *function();
}

runtime::EngineHooks simulator_hooks(TemplateOverrides overrides) {
  runtime::EngineHooks hooks;
  hooks.driver_library = simulator_library();
  hooks.open_compiler = [overrides = std::move(overrides)](const jit::NvrtcSearch&) {
    return std::make_unique<HostCompiler>(overrides);
  };
  return hooks;
}

}  // namespace kiln::sim
