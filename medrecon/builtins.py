# SPDX-License-Identifier: Apache-2.0
"""The one built-in plugin: every component and asset of the house, through the same hooks as anybody's plugin."""

from __future__ import annotations

from medrecon.assets.builtin import ASSETS, MAGICLEAP
from medrecon.assets.catalogue import Asset, License
from medrecon.assets.shipped import shipped_assets
from medrecon.plugins import Component, hookimpl


def _c(kind: str, name: str, where: str, summary: str, **more) -> Component:
    """``where`` is "module:Class" below medrecon; its options are "module:ClassConfig"."""
    return Component(kind, name, f"medrecon.{where}", f"medrecon.{where}Config", summary, **more)


COMPONENTS = [
    _c("source", "image-folder", "ingest.image_folder:ImageFolderSource", "pictures in a folder, in natural order"),
    _c("source", "video", "ingest.video:VideoSource", "frames of a video file"),
    _c("source", "dicom", "ingest.dicom:DicomSource", "DICOM cine, multi-frame or single-frame pictures"),
    _c("source", "views", "ingest.views:ViewsSource", "pictures rendered from a CT or MR volume, with exact truth"),
    _c("source", "projections", "ingest.projections:ProjectionsSource",
       "radiographs computed from a CT volume, poses known, as a cone-beam scanner or C-arm takes them"),
    _c("keyframer", "quality", "ingest.keyframes:QualityKeyframer", "drops blurred, dark, glaring and still frames"),
    _c("keyframer", "all", "ingest.keyframes:AllKeyframer", "keeps every frame"),
    _c("extractor", "sift", "features.sift:SiftExtractor", "SIFT (OpenCV), optionally RootSIFT"),
    _c("extractor", "surf", "features.surf:SurfExtractor", "SURF (mahotas, or OpenCV's where it is built in)"),
    _c("extractor", "orb", "features.orb:OrbExtractor", "ORB binary features (OpenCV)"),
    _c("extractor", "superpoint", "features.superpoint:SuperpointExtractor", "SuperPoint, learned (needs weights)",
       license="Apache-2.0; the weights `superpoint` are Magic Leap's: non-commercial research only"),
    _c("pairing", "exhaustive", "matching.pairing:ExhaustivePairing", "every pair"),
    _c("pairing", "none", "matching.pairing:NoPairing", "no pair: for radiographs, whose poses must be known"),
    _c("pairing", "sequential", "matching.pairing:SequentialPairing", "neighbours in time, with loop closing",
       version=2),
    _c("pairing", "retrieval", "matching.retrieval:RetrievalPairing",
       "those that look most alike, then those that see the same of a third: for large unordered sets"),
    _c("pairing", "from-poses", "matching.pairing:FromPosesPairing", "cameras that are near and look the same way"),
    _c("matcher", "nearest-neighbour", "matching.nearest_neighbour:NearestNeighbourMatcher",
       "mutual nearest neighbours with ratio test, L2 and Hamming"),
    _c("matcher", "superglue", "matching.superglue:SuperglueMatcher", "SuperGlue, learned (needs weights)",
       license="Apache-2.0; the weights `superglue-*` are Magic Leap's: non-commercial research only",
       accepts=("superpoint",)),
    _c("mapper", "incremental", "sfm.incremental:IncrementalMapper", "incremental structure from motion (pycolmap)"),
    _c("mapper", "global", "sfm.global_mapping:GlobalMapper", "global structure from motion (pycolmap)"),
    _c("mapper", "known-poses", "sfm.known_poses:KnownPosesMapper",
       "poses that the frames bring are kept, only points are reconstructed"),
    _c("renderer", "nerf", "radiance.nerf:NerfRenderer", "classical NeRF: point samples, positional encoding"),
    _c("renderer", "mipnerf", "radiance.mipnerf:MipNerfRenderer",
       "mip-NeRF: cones, integrated positional encoding, appearance code in colour only"),
    _c("renderer", "mipgrid", "radiance.mipgrid:MipGridRenderer",
       "multi-resolution hash grid, damped by the pixel's footprint, sampled only where there is matter"),
    _c("renderer", "xray", "radiance.xray:XrayRenderer",
       "attenuation only (Beer-Lambert), for radiographs, fluoroscopy and cone-beam projections"),
    _c("mesher", "marching-cubes", "surface.marching_cubes:MarchingCubesMesher", "isosurface of the density",
       version=2),
    _c("mesher", "tsdf", "surface.tsdf:TsdfMesher", "rendered depths of the views, fused; walls seen from one side"),
    _c("exporter", "ply", "export.mesh_files:PlyExporter", "surface and sparse points as PLY"),
    _c("exporter", "obj", "export.mesh_files:ObjExporter", "surface as Wavefront OBJ"),
    _c("exporter", "stl", "export.mesh_files:StlExporter", "surface as binary STL"),
    _c("exporter", "nifti", "export.nifti:NiftiExporter", "density or attenuation volume as NIfTI"),
    _c("exporter", "colmap", "export.colmap:ColmapExporter", "sparse model in COLMAP's text format"),
    _c("exporter", "transforms", "export.transforms:TransformsExporter", "transforms.json (nerfstudio, instant-ngp)"),
    _c("analysis", "geometry", "analysis.geometry:GeometryAnalysis", "area, volume, bounding box of the surface"),
    _c("analysis", "image-quality", "analysis.image_quality:ImageQualityAnalysis", "held-out views and pictures"),
    _c("analysis", "floaters", "analysis.floaters:FloatersAnalysis", "matter in the air before the lens"),
    _c("analysis", "truth", "analysis.truth:TruthAnalysis", "cameras and surface against the truth, if there is one"),
    _c("metric", "psnr", "metrics.images:Psnr", "peak signal-to-noise ratio, dB"),
    _c("metric", "ssim", "metrics.images:Ssim", "structural similarity"),
    _c("metric", "ms-ssim", "metrics.images:MsSsim", "multi-scale structural similarity"),
    _c("metric", "lpips", "metrics.lpips:Lpips", "learned perceptual distance", license="BSD-2-Clause"),
    _c("metric", "mae", "metrics.images:Mae", "mean absolute error"),
    _c("metric", "nrmse", "metrics.images:Nrmse", "normalised root mean square error"),
    _c("benchmark", "matching", "bench.matching:MatchingBenchmark", "front ends on pairs with exact correspondences"),
    _c("benchmark", "front-ends", "bench.front_ends:FrontEndsBenchmark", "front ends on the user's own pictures"),
]  # fmt: skip


@hookimpl
def medrecon_components() -> list[Component]:
    return COMPONENTS


@hookimpl
def medrecon_assets() -> list[Asset | License]:
    return [MAGICLEAP, *ASSETS, *shipped_assets()]
