#include "support.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace kiln::cache::test {
namespace fs = std::filesystem;

TempDir::TempDir(Where where) {
  const char* base = std::getenv("TMPDIR");
  if (where == Where::kInMemory && ::access("/dev/shm", W_OK | X_OK) == 0) base = "/dev/shm";
  path_ = std::string(base != nullptr && base[0] == '/' ? base : "/tmp") + "/kiln-cache-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp " + path_);
  ::chmod(path_.c_str(), 0755);
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::uint64_t Random::next() {  // splitmix64
  state_ += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

Digest sample_toolchain() { return sha256("sample toolchain"); }

Entry sample_entry(std::uint64_t seed, std::size_t cubin_bytes) {
  Random random(seed);
  Entry entry;
  entry.key_text = KeyBuilder("test").add("seed", static_cast<std::int64_t>(seed)).text();
  entry.key = sha256(entry.key_text);
  entry.toolchain = sample_toolchain();
  entry.compiler_version = 13u << 16;
  entry.created_unix_s = 1'700'000'000 + seed;
  entry.description = "sample " + std::to_string(seed);
  entry.kernel_name = "kiln_sample_" + std::to_string(seed);
  entry.threads = 384;
  entry.cluster = 2;
  entry.dynamic_smem_bytes = 200'000 + seed;
  entry.param_bytes = 576;
  entry.registers = 168;
  entry.spill_store_bytes = 4;
  entry.spill_load_bytes = 8;
  entry.stack_bytes = 16;
  entry.static_smem_bytes = 32;
  entry.compile_us = 250'000;
  entry.cubin.resize(cubin_bytes);
  for (std::byte& byte : entry.cubin) byte = static_cast<std::byte>(random.next());
  entry.log = "ptxas: fine";
  entry.source = "constexpr u32 kBlockM = 128;\n";
  return entry;
}

std::vector<std::byte> read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void write_bytes(const std::string& path, const std::vector<std::byte>& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("write " + path);
}

void write_text(const std::string& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  if (!(out << text << std::flush)) throw std::runtime_error("write " + path);
}

bool exists(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

struct stat status_of(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) throw std::runtime_error("lstat " + path);
  return status;
}

void set_age(const std::string& path, std::int64_t age_s) {
  struct timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const struct timespec modified = {static_cast<time_t>(now.tv_sec - age_s), now.tv_nsec};
  const struct timespec times[2] = {modified, modified};
  if (::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    throw std::runtime_error("utimensat " + path);
  }
}

std::string entry_file(const std::string& root, const Digest& key) {
  const std::string hex = to_hex(key);
  return root + "/v1/" + hex.substr(0, 2) + "/" + hex.substr(2) + ".kiln";
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory, error)) {
    names.push_back(item.path().filename());
  }
  return names;
}

std::uint64_t entry_bytes_in(const std::string& root) {
  std::uint64_t bytes = 0;
  for (const auto& item : fs::recursive_directory_iterator(root)) {
    if (item.path().extension() == ".kiln") bytes += item.file_size();
  }
  return bytes;
}

std::size_t open_descriptors() { return names_in("/proc/self/fd").size(); }

std::string snapshot(const std::string& directory) {
  std::vector<std::string> paths = {directory};
  for (const auto& item : fs::recursive_directory_iterator(directory)) paths.push_back(item.path());
  std::sort(paths.begin(), paths.end());
  std::string text;
  for (const std::string& path : paths) {
    const struct stat s = status_of(path);
    for (const std::int64_t value :
         {static_cast<std::int64_t>(s.st_ino), static_cast<std::int64_t>(s.st_mode),
          static_cast<std::int64_t>(s.st_size), static_cast<std::int64_t>(s.st_mtim.tv_sec),
          static_cast<std::int64_t>(s.st_mtim.tv_nsec), static_cast<std::int64_t>(s.st_ctim.tv_sec),
          static_cast<std::int64_t>(s.st_ctim.tv_nsec)}) {
      text += std::to_string(value) + " ";
    }
    text += path + "\n";
  }
  return text;
}

Options options_for(const std::string& directory) {
  Options options;
  options.directory = directory;
  options.fsync = false;
  return options;
}

pid_t start_child(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork");
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a failed test must not leave it running
  int status = 99;
  try {
    status = body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
  }
  ::_exit(status);
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw std::runtime_error("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int in_child(const std::function<int()>& body) { return wait_for(start_child(body)); }

bool become(uid_t uid) {
  if (::geteuid() == uid) return true;
  return ::setgroups(0, nullptr) == 0 && ::setresgid(uid, uid, uid) == 0 &&
         ::setresuid(uid, uid, uid) == 0;
}

}  // namespace kiln::cache::test
