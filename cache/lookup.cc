#include "cache/lookup.h"

#include <utility>
#include <variant>

namespace kiln::cache {
namespace {

MissReason reason_of(ReadStatus status) {
  switch (status) {
    case ReadStatus::kAbsent: return kAbsent;
    case ReadStatus::kUntrusted: return kUntrusted;
    case ReadStatus::kTooSmall: return kTruncated;
    case ReadStatus::kTooLarge: return kFormat;
    case ReadStatus::kRead:
    case ReadStatus::kFailed: break;
  }
  return kIo;
}

MissReason reason_of(Defect defect) {
  switch (defect) {
    case Defect::kTruncated: return kTruncated;
    case Defect::kChecksum: return kChecksum;
    case Defect::kKeyMismatch: return kKey;
    case Defect::kToolchain: return kToolchain;
    case Defect::kFormat:
    case Defect::kMeta: break;
  }
  return kFormat;
}

}  // namespace

std::string_view words(MissReason reason) {
  switch (reason) {
    case kAbsent: return "it is absent";
    case kIo: return "it cannot be read";
    case kToolchain: return "it was built by another toolchain than its key says";
    case kKey: return "it holds another key's kernel";
    case kTruncated: return "its size is not the one written in it";
    case kFormat: return "its format is not valid";
    case kChecksum: return "its checksum does not match";
    case kUntrusted: return "it is not a regular file that only this user or the system can write";
    case kMissReasons: break;
  }
  return "unknown";
}

Found find_in(const Root& root, const Digest& key, const Digest& toolchain) {
  Found found;
  found.file = read_file(root, entry_path(key), kHeaderBytes, kMaxEntryBytes);
  if (found.file.status != ReadStatus::kRead) {
    found.reason = reason_of(found.file.status);
    return found;
  }
  auto decoded = decode(found.file.bytes);
  if (const Defect* defect = std::get_if<Defect>(&decoded)) {
    found.reason = reason_of(*defect);
  } else if (Entry& entry = std::get<Entry>(decoded); entry.key != key) {
    found.reason = kKey;
  } else if (entry.toolchain != toolchain) {
    found.reason = kToolchain;
  } else {
    found.entry = std::move(entry);
  }
  return found;
}

}  // namespace kiln::cache
