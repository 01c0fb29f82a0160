//! The wire types, made by `build.rs` from `proto/`. Only `serve/` and `ctl/` may name them.

/// The compiled protos, for gRPC reflection and tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Kubernetes runtime interfaces.
pub mod runtime {
    /// The Container Runtime Interface, version 1.
    #[allow(missing_docs, deprecated, rustdoc::all, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));

        /// Shows where the credentials are meant for, never what they are.
        impl std::fmt::Debug for AuthConfig {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("AuthConfig")
                    .field("server_address", &self.server_address)
                    .finish_non_exhaustive()
            }
        }
    }
}

/// podbay's own interface.
pub mod podbay {
    /// Pods as whole objects and the images of the node, version 1.
    #[allow(missing_docs, rustdoc::all, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/podbay.v1.rs"));

        /// Without the manifest: it may hold secrets.
        impl std::fmt::Debug for ApplyRequest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("ApplyRequest")
                    .field("manner", &self.manner())
                    .field("dry_run", &self.dry_run)
                    .finish_non_exhaustive()
            }
        }

        /// Without the manifest: it may hold secrets.
        impl std::fmt::Debug for AdmitRequest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("AdmitRequest").finish_non_exhaustive()
            }
        }

        /// Shows that there are some, never what they are.
        impl std::fmt::Debug for RegistryCredentials {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("RegistryCredentials").finish_non_exhaustive()
            }
        }
    }
}
