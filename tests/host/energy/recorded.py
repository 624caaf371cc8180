"""Rails and estimates that real phones told, retyped from public sources and shortened."""

from __future__ import annotations

PIXEL_6 = """t=349894
CH3(T=349894)[S2M_VDD_CPUCL2], 30203502
CH4(T=349894)[S3M_VDD_CPUCL1], 23377533
CH5(T=349894)[S4M_VDD_CPUCL0], 46356942
CH6(T=349894)[S5M_VDD_INT], 10771876
CH7(T=349894)[S1M_VDD_MIF], 21091363
t=359458
CH0(T=359458)[VSYS_PWR_WLAN_BT], 45993209
CH1(T=359458)[L2S_VDD_AOC_RET], 2822928
CH5(T=359458)[S4S_VDD2H_MEM], 14254574
CH6(T=359458)[S2S_VDD_G3D], 5315420
CH7(T=359458)[VSYS_PWR_DISPLAY], 81221665
"""
"""A Pixel 6 (Google), from the notes of an engineer who read its two meters; microjoules since it started."""
PIXEL_6_LATER = """t=473848
CH1(T=473848)[VSYS_PWR_MODEM], 48480309
CH2(T=473848)[VSYS_PWR_RFFE], 9594393
CH3(T=473848)[S2M_VDD_CPUCL2], 28071872
CH4(T=473848)[S3M_VDD_CPUCL1], 17477139
CH5(T=473848)[S4M_VDD_CPUCL0], 113447446
CH6(T=473848)[S5M_VDD_INT], 12543588
CH7(T=473848)[S1M_VDD_MIF], 25901660
CH42(T=473848)[S10M_VDD_TPU], 3161249
"""
"""Another Pixel 6, from the tests of a parser of its meter."""
STATS = {
    "a phone of 3400 mAh": (
        """  Estimated power use (mAh):
    Capacity: 3400, Computed drain: 766, actual drain: 884-918
    Screen: 149 Excluded from smearing
    Uid u0a134: 119 ( cpu=25.6 wake=0.108 radio=21.3 wifi=71.4 gps=0.0189 sensor=0.252 )
    Uid 1000: 76.7 ( cpu=75.1 wake=0.0636 radio=0.232 wifi=0.765 sensor=0.598 ) Excluded from smearing
""",
        766.0,
        1.0,
        None,
        "https://github.com/shadowsocks/shadowsocks-android/issues/2641",
    ),
    "Meizu m2 note": (
        """    Estimated power use (mAh):
      Capacity: 3050, Computed drain: 674, actual drain: 640-671
      Idle: 342
      Wifi: 103
      Uid 0: 81,8
      Cell standby: 68,8
      Uid 2000: 0,0225
""",
        674.0,
        1.0,
        0.0225,
        "https://github.com/Genymobile/gnirehtet/issues/3 (Android 5.1, decimal commas)",
    ),
}
"""Text of `dumpsys batterystats`, mAh of the phone with its step, mAh of the shell, source."""
