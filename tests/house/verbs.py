"""The verbs with which a function's docstring may begin."""

WORDS = """
Accept Acknowledge Act Add Admit Allow Announce Answer Append Apply Arrange Ask Assert Assign Attack Await
Batch Be Begin Bind Bound Bring Build Call Cancel Carry Centre Check Choose Clear Close Collect Combine
Compare Compile Compose Compute Confirm Connect Convert Convolve Copy Count Create Cut Deal Decide Decode
Define Delete Deliver Derive Descend Describe Detect Diagnose Dial Discard Divide Do Draw Drive Drop Embed
Encode End Enter Erase Estimate Evaluate Execute Expand Expect Export Extend Extract Fail Feed Fetch Fill
Filter Find Finish Fit Flatten Follow Forget Fork Format Forward Gather Generate Get Give Go Grow Guess
Hand Handle Hang Have Hide Hold Ignore Import Increase Initialise Insert Inspect Install Interrupt Join
Keep Kill Know Learn Leave Let Limit Link List Listen Load Lock Log Look Lower Make Map Mark Match Measure
Merge Move Multiply Name Narrow Normalise Note Obtain Offer Open Order Overwrite Pack Pad Parse Pass Pause
Permute Pick Plot Prepare Price Print Prove Provide Pull Push Put Quantise Raise Reach Read Rebuild
Receive Record Recover Reduce Refuse Register Regress Rehearse Reject Relay Release Remove Rename Render
Repeat Replace Replay Report Request Require Reserve Reset Resolve Restart Restore Resume Retry Return
Reverse Revoke Rotate Round Run Save Say Schedule Score Seal Search See Select Send Serve Set Share Show
Sign Simulate Sleep Solve Sort Split Spread Stand Start Step Stop Store Stretch Subtract Suggest Sum
Switch Take Tap Tell Terminate Test Time Trace Train Transform Translate Transpose Trim Truncate Try Turn
Undo Uninstall Unmask Unpack Update Upload Use Validate Verify View Wait Wake Walk Warn Watch Weigh Widen
Wrap Write Yield
"""
VERBS = frozenset(WORDS.split())
"""Imperatives. A verb that is missing is added; a noun, an article, a pronoun or an adverb is not."""
