// swift-tools-version:6.0
import PackageDescription

#if os(Linux)
// For tests: the library of this machine, and stand-ins for Apple's frameworks.
let platform: [Target] = [
  .systemLibrary(name: "CWgEmbed"),
  .target(name: "Network", path: "Tests/Stubs/Network"),
  .target(name: "NetworkExtension", path: "Tests/Stubs/NetworkExtension"),
]
let frameworks: [Target.Dependency] = ["Network", "NetworkExtension"]
#else
// Made by build.sh, which also prints the lines for a release: an address and a checksum in place of a path.
let platform: [Target] = [.binaryTarget(name: "CWgEmbed", path: "CWgEmbed.xcframework")]
let frameworks: [Target.Dependency] = []
#endif

let package = Package(
  name: "WgEmbed",
  platforms: [.macOS(.v11), .iOS(.v15)],
  products: [
    .library(name: "WgEmbed", targets: ["WgEmbed"]),
    .library(name: "WgEmbedTunnel", targets: ["WgEmbedTunnel"]),
  ],
  targets: platform + [
    .target(name: "WgEmbed", dependencies: ["CWgEmbed"], resources: [.copy("PrivacyInfo.xcprivacy")]),
    .target(name: "WgEmbedTunnel", dependencies: ["WgEmbed"] + frameworks),
    .target(name: "TestSupport", dependencies: ["WgEmbed"], path: "Tests/Support"),
    .testTarget(name: "WgEmbedTests", dependencies: ["WgEmbed", "TestSupport"]),
    .testTarget(name: "WgEmbedTunnelTests", dependencies: ["WgEmbedTunnel", "TestSupport"] + frameworks),
  ],
  swiftLanguageModes: [.v6]
)
