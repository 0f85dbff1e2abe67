"""Colormaps: from values between 0 and 1 to colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from layertap._arguments import array
from layertap.errors import UsageError, suggest

SHADES = 256


def colored(heat: npt.ArrayLike, colormap: str = "jet") -> npt.NDArray[np.uint8]:
    """The colours of a heat map.

    Args:
        heat: an array of any shape. 0 gives the first colour of the colormap, 1 the last. Values
            outside of 0 to 1 are clipped, and NaN is treated as 0.
        colormap: one of `COLORMAPS`, as in matplotlib.

    Returns:
        RGB, uint8, of shape `(*heat.shape, 3)`.

    Raises:
        UsageError: the colormap is unknown.
    """
    table = shades(colormap)
    indices = np.nan_to_num(array("heat", heat) * SHADES).clip(0, SHADES - 1)
    return table[indices.astype(np.intp)]


def shades(colormap: str) -> npt.NDArray[np.uint8]:
    """The colours of a colormap in order of increasing heat: RGB, uint8, `(256, 3)`.

    Raises:
        UsageError: the colormap is unknown.
    """
    if not isinstance(colormap, str) or colormap not in COLORMAPS:
        raise UsageError(
            f"the colormap {colormap!r} is unknown; the colormaps are {', '.join(COLORMAPS)}."
            + suggest(str(colormap), COLORMAPS)
        )
    if colormap == "jet":
        return _jet()
    if colormap == "gray":
        return np.repeat(np.arange(SHADES, dtype=np.uint8)[:, None], 3, axis=1)
    if colormap == "RdBu_r":
        return _between(bytes.fromhex(_RDBU_R))
    return np.frombuffer(bytes.fromhex(_TABLES[colormap]), np.uint8).reshape(SHADES, 3)


def _jet() -> npt.NDArray[np.uint8]:
    """`jet` of matplotlib and MATLAB: each colour channel is interpolated linearly."""
    positions = np.linspace(0, 1, SHADES)
    red = np.interp(positions, [0.35, 0.66, 0.89, 1], [0, 1, 1, 0.5])
    green = np.interp(positions, [0.125, 0.375, 0.64, 0.91], [0, 1, 1, 0])
    blue = np.interp(positions, [0, 0.11, 0.34, 0.65], [0.5, 1, 1, 0])
    return np.round(np.stack([red, green, blue], axis=-1) * 255).astype(np.uint8)


def _between(packed: bytes) -> npt.NDArray[np.uint8]:
    """Colours at equal distances, interpolated linearly."""
    anchors = np.frombuffer(packed, np.uint8).reshape(-1, 3)
    positions, at = np.linspace(0, 1, SHADES), np.linspace(0, 1, len(anchors))
    mixed = [np.interp(positions, at, channel) for channel in anchors.T]
    return np.round(np.stack(mixed, axis=-1)).astype(np.uint8)


# RdBu of ColorBrewer (Cynthia Brewer, Mark Harrower and Pennsylvania State University; Apache
# License 2.0) from blue to red: eleven colours.

_RDBU_R = "0530612166ac4393c392c5ded1e5f0f7f7f7fddbc7f4a582d6604db2182b67001f"

# The colours of viridis, magma, inferno and cividis: red, green and blue, with two hexadecimal
# digits each. By Stéfan van der Walt and Nathaniel Smith; cividis by Jamie Nuñez, Christopher
# Anderton and Ryan Renslow. All are released into the public domain (CC0).

_VIRIDIS = """
    44015444025645045745055946075a46085c460a5d460b5e470d60470e61471063471164471365481467481668
    48176948186a481a6c481b6d481c6e481d6f481f70482071482173482374482475482576482677482878482979
    472a7a472c7a472d7b472e7c472f7d46307e46327e46337f463480453581453781453882443983443a83443b84
    433d84433e85423f854240864241864142874144874045884046883f47883f48893e49893e4a893e4c8a3d4d8a
    3d4e8a3c4f8a3c508b3b518b3b528b3a538b3a548c39558c39568c38588c38598c375a8c375b8d365c8d365d8d
    355e8d355f8d34608d34618d33628d33638d32648e32658e31668e31678e31688e30698e306a8e2f6b8e2f6c8e
    2e6d8e2e6e8e2e6f8e2d708e2d718e2c718e2c728e2c738e2b748e2b758e2a768e2a778e2a788e29798e297a8e
    297b8e287c8e287d8e277e8e277f8e27808e26818e26828e26828e25838e25848e25858e24868e24878e23888e
    23898e238a8d228b8d228c8d228d8d218e8d218f8d21908d21918c20928c20928c20938c1f948c1f958b1f968b
    1f978b1f988b1f998a1f9a8a1e9b8a1e9c891e9d891f9e891f9f881fa0881fa1881fa1871fa28720a38620a486
    21a58521a68522a78522a88423a98324aa8325ab8225ac8226ad8127ad8128ae8029af7f2ab07f2cb17e2db27d
    2eb37c2fb47c31b57b32b67a34b67935b77937b87838b9773aba763bbb753dbc743fbc7340bd7242be7144bf70
    46c06f48c16e4ac16d4cc26c4ec36b50c46a52c56954c56856c66758c7655ac8645cc8635ec96260ca6063cb5f
    65cb5e67cc5c69cd5b6ccd5a6ece5870cf5773d05675d05477d1537ad1517cd2507fd34e81d34d84d44b86d549
    89d5488bd6468ed64590d74393d74195d84098d83e9bd93c9dd93ba0da39a2da37a5db36a8db34aadc32addc30
    b0dd2fb2dd2db5de2bb8de29bade28bddf26c0df25c2df23c5e021c8e020cae11fcde11dd0e11cd2e21bd5e21a
    d8e219dae319dde318dfe318e2e418e5e419e7e419eae51aece51befe51cf1e51df4e61ef6e620f8e621fbe723
    fde725
"""

_MAGMA = """
    00000401000501010601010802010902020b02020d03030f03031204041405041606051806051a07061c08071e
    0907200a08220b09240c09260d0a290e0b2b100b2d110c2f120d31130d34140e36150e38160f3b180f3d19103f
    1a10421c10441d11471e114920114b21114e22115024125325125527125829115a2a115c2c115f2d11612f1163
    31116533106734106936106b38106c390f6e3b0f703d0f713f0f72400f74420f75440f76451077471078491078
    4a10794c117a4e117b4f127b51127c52137c54137d56147d57157e59157e5a167e5c167f5d177f5f187f601880
    621980641a80651a80671b80681c816a1c816b1d816d1d816e1e81701f81721f81732081752181762181782281
    7922827b23827c23827e24828025828125818326818426818627818827818928818b29818c29818e2a81902a81
    912b81932b80942c80962c80982d80992d809b2e7f9c2e7f9e2f7fa02f7fa1307ea3307ea5317ea6317da8327d
    aa337dab337cad347cae347bb0357bb2357bb3367ab5367ab73779b83779ba3878bc3978bd3977bf3a77c03a76
    c23b75c43c75c53c74c73d73c83e73ca3e72cc3f71cd4071cf4070d0416fd2426fd3436ed5446dd6456cd8456c
    d9466bdb476adc4869de4968df4a68e04c67e24d66e34e65e44f64e55064e75263e85362e95462ea5661eb5760
    ec5860ed5a5fee5b5eef5d5ef05f5ef1605df2625df2645cf3655cf4675cf4695cf56b5cf66c5cf66e5cf7705c
    f7725cf8745cf8765cf9785df9795df97b5dfa7d5efa7f5efa815ffb835ffb8560fb8761fc8961fc8a62fc8c63
    fc8e64fc9065fd9266fd9467fd9668fd9869fd9a6afd9b6bfe9d6cfe9f6dfea16efea36ffea571fea772fea973
    feaa74feac76feae77feb078feb27afeb47bfeb67cfeb77efeb97ffebb81febd82febf84fec185fec287fec488
    fec68afec88cfeca8dfecc8ffecd90fecf92fed194fed395fed597fed799fed89afdda9cfddc9efddea0fde0a1
    fde2a3fde3a5fde5a7fde7a9fde9aafdebacfcecaefceeb0fcf0b2fcf2b4fcf4b6fcf6b8fcf7b9fcf9bbfcfbbd
    fcfdbf
"""

_INFERNO = """
    00000401000501010601010802010a02020c02020e03021004031204031405041706041907051b08051d09061f
    0a07220b07240c08260d08290e092b10092d110a30120a32140b34150b37160b39180c3c190c3e1b0c411c0c43
    1e0c451f0c48210c4a230c4c240c4f260c51280b53290b552b0b572d0b592f0a5b310a5c320a5e340a5f360961
    3809623909633b09643d09653e0966400a67420a68440a68450a69470b6a490b6a4a0c6b4c0c6b4d0d6c4f0d6c
    510e6c520e6d540f6d550f6d57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e
    69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c
    801f6c82206c84206b85216b87216b88226a8a226a8c23698d23698f2469902568922568932667952667972766
    9827669a28659b29649d29649f2a63a02a63a22b62a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305c
    b0315bb1325ab3325ab43359b63458b73557b93556ba3655bc3754bd3853bf3952c03a51c13a50c33b4fc43c4e
    c63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545d24644d34743d44842d54a41d74b3fd84c3e
    d94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2ee8602d
    e9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819
    f47918f57b17f57d15f67e14f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207
    fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309fca50afca60cfca80dfcaa0ffcac11fcae12
    fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932f9cb35
    f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865
    f2ea69f1ec6df1ed71f1ef75f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1
    fcffa4
"""

_CIVIDIS = """
    00224e00234f00245100255300255400265600275800285900285b00295d002a5f002a61002b62002c64002c66
    002d68002e6a002e6c002f6d00306f0030700031700031710132710533710833700c34700f3570123570143670
    16377018376f1a386f1c396f1e3a6f203a6f213b6e233c6e243c6e263d6e273e6e293f6e2a3f6d2b406d2d416d
    2e416d2f426d31436d32436d33446d34456c35456c36466c38476c39486c3a486c3b496c3c4a6c3d4a6c3e4b6c
    3f4c6c404c6c414d6c424e6c434e6c444f6c45506c46516c47516c48526c49536c4a536c4b546c4c556c4d556c
    4e566c4f576c50576c51586d52596d535a6d545a6d555b6d555c6d565c6d575d6d585e6d595e6e5a5f6e5b606e
    5c616e5d616e5e626e5e636f5f636f60646f61656f62656f636670646770656870656870666970676a71686a71
    696b716a6c716b6d726c6d726c6e726d6f726e6f736f7073707173717274727274727374737475747475757575
    7676767777767777777878777979777a7a787b7a787c7b787d7c787e7c787e7d787f7e78807f78817f78828079
    8381798482798582798683798784788885788985788a86788b87788c88788d88788e89788f8a78908b78918b78
    928c78928d78938e78948e77958f779690779791779892779992779a93769b94769c95769d95769e96769f9775
    a09875a19975a29975a39a74a49b74a59c74a69c74a79d73a89e73a99f73aaa073aba072aca172ada272aea371
    afa471b0a571b1a570b3a670b4a76fb5a86fb6a96fb7a96eb8aa6eb9ab6dbaac6dbbad6dbcae6cbdae6cbeaf6b
    bfb06bc0b16ac1b26ac2b369c3b369c4b468c5b568c6b667c7b767c8b866c9b965cbb965ccba64cdbb63cebc63
    cfbd62d0be62d1bf61d2c060d3c05fd4c15fd5c25ed6c35dd7c45cd9c55cdac65bdbc75adcc859ddc858dec958
    dfca57e0cb56e1cc55e2cd54e4ce53e5cf52e6d051e7d150e8d24fe9d34eead34cebd44bedd54aeed649efd748
    f0d846f1d945f2da44f3db42f5dc41f6dd3ff7de3ef8df3cf9e03afbe138fce236fde334fee434fee535fee636
    fee838
"""

_TABLES = {"viridis": _VIRIDIS, "magma": _MAGMA, "inferno": _INFERNO, "cividis": _CIVIDIS}

DIVERGING = ("RdBu_r",)
"""The colormaps for values with a sign: their middle is 0."""

COLORMAPS = ("jet", *_TABLES, "gray", *DIVERGING)
"""The names of the colormaps. `viridis`, `magma`, `inferno` and `cividis` are perceptually uniform:
equal steps of a value look equally large. `cividis` looks nearly the same to people with red-green
colour blindness. `RdBu_r` is for values with a sign: blue below 0, red above."""
