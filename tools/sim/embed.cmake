# Writes a C++ file that holds the files of kernel_side/ as raw strings.
set(text "#include \"tools/sim/embedded.h\"\n\nnamespace kiln::sim {\nnamespace {\nconstexpr EmbeddedFile kFiles[] = {\n")
foreach(file IN LISTS FILES)
  file(READ ${file} content)
  get_filename_component(name ${file} NAME)
  string(APPEND text "    {\"${name}\", R\"kilntext(${content})kilntext\"},\n")
endforeach()
string(APPEND text "};\n}  // namespace\n\nstd::span<const EmbeddedFile> kernel_side_files() { return kFiles; }\n\n}  // namespace kiln::sim\n")
file(WRITE ${OUTPUT} "${text}")
