#include "cache/toolchains.h"

#include <fcntl.h>

#include <algorithm>
#include <optional>

#include "cache/eviction.h"

namespace kiln::cache {
namespace {

std::string path_of(const std::string& name) {
  return std::string(kToolchainDirectory) + "/" + name;
}

ReadResult read_named(const Root& root, const std::string& name) {
  return read_file(root, path_of(name), 1, kMaxToolchainBytes);
}

std::optional<RecordedToolchain> accept(const ReadResult& read, const std::string& name) {
  if (read.status != ReadStatus::kRead) return std::nullopt;
  std::string text(reinterpret_cast<const char*>(read.bytes.data()), read.bytes.size());
  if (to_hex(sha256(text)) != name) return std::nullopt;
  return RecordedToolchain{std::move(text), modified_ns(read.file)};
}

}  // namespace

bool write_toolchain(const Root& root, const std::string& text, bool sync) {
  if (text.empty() || text.size() > kMaxToolchainBytes) return false;
  const std::string name = to_hex(sha256(text));
  const ReadResult there = read_named(root, name);
  if (accept(there, name)) {
    root.files->utimensat(root.at(), path_of(name).c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
    return true;
  }
  const bool damaged = there.status != ReadStatus::kAbsent;
  const auto bytes = std::as_bytes(std::span(text));
  const PublishResult result = publish_file(root, kToolchainDirectory, name, bytes, damaged, sync);
  if (result.publication == Publication::kFailed) return false;
  keep_newest(root, kToolchainDirectory, kMaxToolchains);
  return true;
}

std::vector<RecordedToolchain> read_toolchains(const Root& root) {
  std::vector<RecordedToolchain> toolchains;
  std::vector<std::string> names = list_names(*root.files, root.at(), kToolchainDirectory).names;
  std::sort(names.begin(), names.end());  // for a stable order among equal times
  for (const std::string& name : names) {
    if (toolchains.size() >= kMaxToolchains) break;
    if (!digest_from_hex(name)) continue;
    auto toolchain = accept(read_named(root, name), name);
    if (toolchain) toolchains.push_back(std::move(*toolchain));
  }
  std::stable_sort(toolchains.begin(), toolchains.end(),
                   [](const auto& a, const auto& b) { return a.modified_ns > b.modified_ns; });
  return toolchains;
}

}  // namespace kiln::cache
